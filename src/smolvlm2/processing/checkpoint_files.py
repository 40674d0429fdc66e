"""The small files of a checkpoint: found in a folder or on the hub, read and written as JSON."""

import json
from pathlib import Path
from typing import Any

from smolvlm2.errors import CheckpointError, CheckpointNotFoundError

SMALL_FILES = ["*.json", "*.jinja", "*.txt"]
"""What a processor needs; weights are never fetched from here."""


def find_checkpoint(source: str | Path, needed: str) -> Path:
    """Folder that holds the file ``needed``: ``source`` itself, or the hub's copy of it.

    Args:
        source: A folder, or a hub id such as ``HuggingFaceTB/SmolVLM2-256M-Video-Instruct``.
        needed: File name that must be there.

    Returns:
        A local folder; hub files are cached by huggingface_hub.

    Raises:
        CheckpointNotFoundError: Neither a folder with that file nor a repository that can be had.
    """
    folder = Path(source)
    if folder.is_dir():
        if not (folder / needed).is_file():
            raise CheckpointNotFoundError(
                f"{folder}: holds no {needed}; give a checkpoint folder (or a hub id)"
            )
        return folder
    if folder.is_absolute() or len(folder.parts) > 2 or str(source).startswith("."):
        raise CheckpointNotFoundError(f"{source}: no such folder; give a checkpoint folder")
    import huggingface_hub
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        found = Path(huggingface_hub.snapshot_download(str(source), allow_patterns=SMALL_FILES))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise CheckpointNotFoundError(
            f"{source}: no such folder, and the hub did not give it ({type(error).__name__}); "
            f"check the name, the network and the token"
        ) from error
    if not (found / needed).is_file():
        raise CheckpointNotFoundError(f"hub repository {source}: holds no {needed}")
    return found


def read_json(path: Path, *, missing_ok: bool = False) -> dict[str, Any]:
    """Parse a JSON object.

    Args:
        path: The file.
        missing_ok: Return an empty dictionary where there is no file.

    Raises:
        CheckpointError: The text is not a JSON object.
        CheckpointNotFoundError: No such file, unless ``missing_ok``.
    """
    if not path.is_file():
        if missing_ok:
            return {}
        raise CheckpointNotFoundError(f"{path}: no such file")
    try:
        parsed = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CheckpointError(f"{path}: not valid JSON ({error})") from error
    if not isinstance(parsed, dict):
        raise CheckpointError(f"{path}: expected a JSON object, found {type(parsed).__name__}")
    return parsed


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write a JSON object with a final newline."""
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
