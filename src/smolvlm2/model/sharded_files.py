"""Our own step folders: torch.distributed.checkpoint, on one device as on many.

Its metadata is a pickle, so only folders that this package wrote should be opened; checkpoints of
others are read as safetensors.
"""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch.distributed.checkpoint as dcp

METADATA = ".metadata"
"""The file that marks such a folder."""


def save_sharded(state: dict[str, Any], folder: Path) -> None:
    """Write nested dictionaries of tensors."""
    with _one_process():
        dcp.save(state, checkpoint_id=folder, no_dist=True)


def load_sharded(state: dict[str, Any], folder: Path) -> None:
    """Fill the tensors of ``state`` in place; tensors that it does not name are not read."""
    with _one_process():
        dcp.load(state, checkpoint_id=folder, no_dist=True)


def stored_names(folder: Path) -> list[str]:
    """Names of the tensors in a folder, without reading them."""
    return list(dcp.FileSystemReader(folder).read_metadata().state_dict_metadata)


@contextmanager
def _one_process() -> Iterator[None]:
    with warnings.catch_warnings():
        # One process is the intended case here, not a mistake.
        warnings.filterwarnings("ignore", message=".*torch.distributed is (disabled|unavail).*")
        yield
