"""Where a checkpoint is: run folder, step folder, Hugging Face folder or hub id. No torch."""

import json
import re
from pathlib import Path
from typing import Any

from smolvlm2.errors import CheckpointError, CheckpointNotFoundError

HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
LATEST = Path("checkpoints") / "latest"
"""In a run folder, the newest step folder."""


def resolve_checkpoint(path_or_repo: str | Path, *, patterns: tuple[str, ...]) -> Path:
    """The local folder of a checkpoint, downloaded if it is a hub id.

    Args:
        path_or_repo: Run folder (its last export, else its newest step), step folder, Hugging
            Face folder, or hub id ``owner/name``.
        patterns: File names to fetch from the hub.

    Raises:
        CheckpointNotFoundError: Nothing is there; says what was looked for.
    """
    folder = Path(path_or_repo)
    if folder.is_dir():
        for candidate in (folder, folder / LATEST):
            if (candidate / "config.json").is_file():
                return candidate
        raise CheckpointNotFoundError(
            f"{folder}: no config.json in this folder nor in {LATEST}; expected a run folder, a "
            f"step folder or a Hugging Face checkpoint"
        )
    if folder.exists():
        raise CheckpointNotFoundError(
            f"{folder}: is a file; give the folder that holds config.json"
        )
    name = str(path_or_repo)
    if not HUB_ID.fullmatch(name) or name.startswith("."):
        raise CheckpointNotFoundError(
            f"{name}: no such folder, and not a hub id of the form owner/name"
        )
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(name, allow_patterns=list(patterns)))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise CheckpointNotFoundError(
            f"{name}: no such folder here, and the hub gave no checkpoint of that name "
            f"({type(error).__name__}); check the spelling, the network, and for gated "
            f"models run 'hf auth login'"
        ) from error


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a checkpoint's file.

    Raises:
        CheckpointError: Missing, not JSON, or not an object.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise CheckpointError(f"{path}: missing; this is not a checkpoint folder") from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{path}: not JSON ({error})") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{path}: holds a {type(value).__name__}, expected an object")
    return value
