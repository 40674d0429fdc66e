"""What the three scripts in ``mlx/`` share: a test picture, a conversation, errors in one line."""

import logging
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from smolvlm2.errors import MediaNotFoundError, SmolVLMError


def run_command(command: Callable[[], int | None]) -> int:
    """Run a command; an error meant for the user is one line and exit status 2."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(message)s")
    try:
        return command() or 0
    except SmolVLMError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def question(prompt: str, images: Sequence[Path], videos: Sequence[Path]) -> list[dict[str, Any]]:
    """A user's turn: images, then clips, then the text.

    Raises:
        MediaNotFoundError: A file is missing; told before a model is loaded.
    """
    for path in (*images, *videos):
        if not path.is_file():
            raise MediaNotFoundError(
                f"{path}: no such file; check the path after --image or --video"
            )
    content: list[dict[str, Any]] = [{"type": "image", "path": str(path)} for path in images]
    content += [{"type": "video", "path": str(path)} for path in videos]
    return [{"role": "user", "content": [*content, {"type": "text", "text": prompt}]}]
