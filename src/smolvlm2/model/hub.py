"""Where a checkpoint is, and its small files: a run folder, a step folder, a Hugging Face folder or
a hub id. No torch in this file: processors are loaded without it.
"""

import hashlib
import json
import os
import re
from pathlib import Path
from typing import Any

from smolvlm2.errors import CheckpointError, CheckpointNotFoundError

HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
LATEST = Path("checkpoints") / "latest"
"""In a run folder, the newest step folder."""
SMALL_FILES = ("*.json", "*.jinja", "*.txt")
"""What a processor needs from the hub: everything but weights."""
BLOCK = 2**22
"""Bytes that are hashed at a time."""


def resolve_checkpoint(
    path_or_repo: str | Path,
    *,
    needed: str = "config.json",
    patterns: tuple[str, ...] = SMALL_FILES,
) -> Path:
    """The local folder of a checkpoint, downloaded if it is a hub id.

    Args:
        path_or_repo: Run folder (its last export, else its newest step), step folder, Hugging
            Face folder, or hub id ``owner/name``.
        needed: File that must be there.
        patterns: File names to fetch from the hub.

    Raises:
        CheckpointNotFoundError: Nothing is there; says what was looked for.
    """
    folder = Path(path_or_repo)
    if folder.is_dir():
        # Where `latest` leads now: it moves while a run trains, and files are read one by one.
        for candidate in (folder, (folder / LATEST).resolve()):
            if (candidate / needed).is_file():
                return candidate
        raise CheckpointNotFoundError(
            f"{folder}: no {needed} in this folder nor in {LATEST}; expected a run folder, a "
            f"step folder or a Hugging Face checkpoint"
        )
    if folder.exists():
        raise CheckpointNotFoundError(f"{folder}: is a file; give the folder with {needed}")
    name = str(path_or_repo)
    if not HUB_ID.fullmatch(name) or name.startswith("."):
        raise CheckpointNotFoundError(
            f"{name}: no such folder, and not a hub id of the form owner/name"
        )
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        found = Path(snapshot_download(name, allow_patterns=list(patterns)))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise CheckpointNotFoundError(
            f"{name}: no such folder here, and the hub did not give it ({type(error).__name__}); "
            f"check the spelling and the network, and for gated models run 'hf auth login'"
        ) from error
    if not (found / needed).is_file():
        raise CheckpointNotFoundError(f"hub repository {name}: holds no {needed}")
    return found


def read_json(path: Path, *, missing_ok: bool = False) -> dict[str, Any]:
    """A JSON object from a checkpoint's file.

    Args:
        path: The file.
        missing_ok: Return an empty dictionary where there is no file.

    Raises:
        CheckpointNotFoundError: No such file, unless ``missing_ok``.
        CheckpointError: Not JSON, or not an object.
    """
    if missing_ok and not path.is_file():
        return {}
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise CheckpointNotFoundError(f"{path}: missing; this is no checkpoint folder") from error
    except ValueError as error:
        raise CheckpointError(f"{path}: not valid JSON ({error})") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{path}: expected a JSON object, found {type(value).__name__}")
    return value


def write_json(value: dict[str, Any], path: Path) -> None:
    """Write a JSON file; the old one stays until the new one is complete."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".partial")
    temporary.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    os.replace(temporary, path)


def hash_file(path: Path) -> str:
    """SHA-256 of a file."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            digest.update(block)
    return digest.hexdigest()
