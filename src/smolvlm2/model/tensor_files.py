"""Safetensors on disk, read and written by their names; pickles are never opened."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from smolvlm2.errors import CheckpointError, CheckpointNotFoundError
from smolvlm2.model.hub import read_json

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"


class TensorFiles:
    """The tensors of one checkpoint folder, opened lazily.

    Args:
        folder: Holds ``model.safetensors``, or several files and their index.

    Raises:
        CheckpointNotFoundError: No safetensors files.
        CheckpointError: A file is truncated, or the index names a missing one.
    """

    def __init__(self, folder: Path) -> None:
        if (folder / WEIGHTS).is_file():
            files = [WEIGHTS]
        elif (folder / INDEX).is_file():
            files = sorted(set(read_json(folder / INDEX)["weight_map"].values()))
        else:
            raise CheckpointNotFoundError(
                f"{folder}: neither {WEIGHTS} nor {INDEX}; only safetensors are read (convert "
                f".bin files with transformers first)"
            )
        self.folder = folder
        self._file_of: dict[str, Any] = {}
        for name in files:
            try:
                handle = safe_open(folder / name, framework="pt")
            except (SafetensorError, OSError) as error:
                raise CheckpointError(
                    f"{folder / name}: not a complete safetensors file ({error}); copy or "
                    f"download it again"
                ) from error
            self._file_of.update(dict.fromkeys(handle.keys(), handle))

    def names(self) -> list[str]:
        """All tensor names, sorted."""
        return sorted(self._file_of)

    def __contains__(self, name: str) -> bool:
        return name in self._file_of

    def shape(self, name: str) -> tuple[int, ...]:
        """A tensor's shape, without reading it."""
        return tuple(self._file_of[name].get_slice(name).get_shape())

    def read(self, name: str, shape: tuple[int, ...] | torch.Size | None = None) -> Tensor:
        """One tensor.

        Raises:
            CheckpointError: The tensor is missing or has another shape.
        """
        if name not in self._file_of:
            raise CheckpointError(f"{self.folder}: tensor {name!r} is missing")
        if shape is not None and self.shape(name) != tuple(shape):
            raise CheckpointError(
                f"{self.folder}: tensor {name!r} is {self.shape(name)}, expected {tuple(shape)}"
            )
        return self._file_of[name].get_tensor(name)


def write_tensors(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Write a safetensors file; the old one stays until the new one is complete."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".partial")
    # safetensors leaves files that nobody but their owner may read; others serve what we export.
    temporary.unlink(missing_ok=True)
    temporary.touch()
    mode = temporary.stat().st_mode
    save_file(
        {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()},
        temporary,
        metadata={"format": "pt"},
    )
    temporary.chmod(mode)
    os.replace(temporary, path)
