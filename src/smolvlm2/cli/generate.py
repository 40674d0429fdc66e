"""One answer of a checkpoint: what ``smolvlm2 generate`` prints."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from smolvlm2.errors import MediaNotFoundError


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
        prompt: The question; media stand before it, images first.
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
        MediaError: A file is no image or video.
        CheckpointNotFoundError: No checkpoint there.
    """
    for path in (*images, *videos):
        if not path.is_file():
            raise MediaNotFoundError(f"{path}: no such file")
    from smolvlm2.cli.checkpoint import load_checkpoint

    model, processor = load_checkpoint(checkpoint, device=device, dtype=dtype)
    inputs = processor([question(prompt, images, videos)], add_generation_prompt=True)
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
    """A conversation of one user turn: images, then videos, then the text."""
    content = [{"type": "image", "path": str(path)} for path in images]
    content += [{"type": "video", "path": str(path)} for path in videos]
    return [{"role": "user", "content": [*content, {"type": "text", "text": prompt}]}]
