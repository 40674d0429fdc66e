"""One answer of a checkpoint: what ``smolvlm2 generate`` prints."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from smolvlm2.errors import MediaNotFoundError, PromptError

MARKER = re.compile("(<image>|<video>)")
"""Where a medium stands, on the command line only: in data such strings are plain text."""


def generate_answer(
    checkpoint: str,
    prompt: str,
    *,
    images: Sequence[Path] = (),
    videos: Sequence[Path] = (),
    max_new_tokens: int = 256,
    temperature: float = 0.0,
    top_p: float = 1.0,
    seed: int = 0,
    device: str = "auto",
    dtype: str = "auto",
) -> str:
    """Ask a checkpoint one question.

    Args:
        checkpoint: Run folder, checkpoint folder or hub id.
        prompt: The question, see `question` for markers.
        images: Image files.
        videos: Video files.
        max_new_tokens: Longest answer, in tokens.
        temperature: 0 takes the likeliest token.
        top_p: Sample among the likeliest tokens of this joint probability, in (0, 1].
        seed: Of sampling.
        device: A torch device, or ``auto``.
        dtype: A torch dtype's name, or ``auto``.

    Returns:
        The answer's text.

    Raises:
        MediaNotFoundError: A file is missing; told before the checkpoint is loaded.
        PromptError: Markers and media do not match; told then too.
        MediaError: A file is no image or video.
        CheckpointNotFoundError: No checkpoint there.
    """
    for path in (*images, *videos):
        if not path.is_file():
            raise MediaNotFoundError(f"{path}: no such file")
    conversation = question(prompt, images, videos)
    from smolvlm2.cli.checkpoint import load_checkpoint

    model, processor = load_checkpoint(checkpoint, device=device, dtype=dtype)
    inputs = processor([conversation], add_generation_prompt=True)
    answers = model.generate(
        **inputs,
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        top_p=top_p,
        seed=seed,
    )
    return processor.decode(answers[0]).strip()


def question(
    prompt: str, images: Sequence[Path] = (), videos: Sequence[Path] = ()
) -> list[dict[str, Any]]:
    """A conversation of one user turn.

    Args:
        prompt: The text. ``<image>`` and ``<video>`` in it say where the media stand; without any,
            images come first, then videos, then the text.
        images: In the order of their markers.
        videos: Likewise.

    Raises:
        PromptError: Markers, and not as many as there are media.
    """
    parts = MARKER.split(prompt)
    waiting = {"<image>": list(images), "<video>": list(videos)}
    if len(parts) == 1:
        parts = ["<image>"] * len(images) + ["<video>"] * len(videos) + [prompt]
    for marker, media in waiting.items():
        if parts.count(marker) != len(media):
            raise PromptError(
                f"the prompt has {parts.count(marker)} {marker} markers and the command line "
                f"{len(media)} --{marker[1:-1]}; give one marker for each, or none at all"
            )
    content: list[dict[str, Any]] = []
    for part in parts:
        if part in waiting:
            content.append({"type": part[1:-1], "path": str(waiting[part].pop(0))})
        elif part:
            content.append({"type": "text", "text": part})
    return [{"role": "user", "content": content}]
