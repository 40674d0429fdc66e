"""Our own step folders: torch.distributed.checkpoint, on one device as on many.

Its metadata is a pickle, so only folders that this package wrote are opened, as they were written;
checkpoints of others are read as safetensors.
"""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.api import CheckpointException

from smolvlm2.errors import CheckpointError
from smolvlm2.model.hub import hash_file, read_json

METADATA = ".metadata"
"""The file that marks such a folder."""
STATE_FILE = "training_state.json"
"""Written last, with size and hash of every other file."""


def load_sharded(state: dict[str, Any], folder: Path) -> None:
    """Fill the tensors of ``state`` in place; tensors that it does not name are not read.

    Args:
        state: Nested dictionaries of tensors.
        folder: A step folder, verified.

    Raises:
        CheckpointError: It does not hold these tensors.
    """
    try:
        with _one_process():
            dcp.load(state, checkpoint_id=folder, no_dist=True)
    except (CheckpointException, RuntimeError, ValueError) as error:
        last = str(error).strip().splitlines()[-1]
        raise CheckpointError(
            f"{folder}: its tensors are not those of its config.json ({last})"
        ) from error


def stored_names(folder: Path) -> list[str]:
    """Names of the tensors in a verified step folder, without reading them."""
    return list(dcp.FileSystemReader(folder).read_metadata().state_dict_metadata)


def verify_files(folder: Path, *, part: int = 0, parts: int = 1) -> None:
    """Compare sizes and hashes of a step folder's files, or of every ``parts``-th of them.

    Raises:
        CheckpointError: The folder is not whole, or a file is not as it was written; names it.
    """
    path = folder / STATE_FILE
    files = read_json(path, missing_ok=True).get("files")
    if not isinstance(files, dict):
        raise CheckpointError(
            f"{path}: missing, or without the hashes of the other files; only whole step folders "
            f"of this package are read, checkpoints of others as safetensors"
        )
    for name in sorted(files)[part::parts]:
        size, expected = files[name]
        try:
            found = (folder / name).stat().st_size
            content = hash_file(folder / name) if found == size else None
        except OSError as error:
            raise CheckpointError(f"{folder / name}: cannot be read ({error})") from error
        if content is None:
            raise CheckpointError(
                f"{folder / name}: {found} bytes, expected {size}; copy the folder again, or take "
                f"another step's"
            )
        if content != expected:
            raise CheckpointError(
                f"{folder / name}: its content is not what was written (SHA-256 {content[:12]}..., "
                f"expected {expected[:12]}...); copy the folder again, or take another step's"
            )


@contextmanager
def _one_process() -> Iterator[None]:
    with warnings.catch_warnings():
        # One process is the intended case here, not a mistake.
        warnings.filterwarnings("ignore", message=".*torch.distributed is (disabled|unavail).*")
        yield
