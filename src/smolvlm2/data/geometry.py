"""The numbers of a prepared source: fixed-width columns that the planner computes with."""

from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np

from smolvlm2.errors import DataError, DataNotFoundError

ROW_MODALITIES = ("text", "image", "multi-image", "video")
"""Names of the values of ``row_modality``."""
ROLES = ("system", "user", "assistant")
"""Names of the values of ``message_role``."""
FLAGS = {"refusal": 1, "speech_dependent": 2}
"""Bits of ``row_flags``."""

ROW_COLUMNS = {"row_modality": "uint8", "row_flags": "uint8", "row_subset": "int32"}
MEDIA_COLUMNS = {
    "media_kind": "uint8",
    "media_width": "int32",
    "media_height": "int32",
    "media_duration": "float64",
    "media_fps": "float64",
    "media_frames": "int32",
    "media_message": "int32",
}
MESSAGE_COLUMNS = {"message_role": "uint8"}
OFFSET_COLUMNS = {"media_offsets": "int64", "message_offsets": "int64"}
TOKEN_COLUMNS = {"message_text_tokens": "int32", "message_supervised": "int32"}
COLUMNS = OFFSET_COLUMNS | MEDIA_COLUMNS | MESSAGE_COLUMNS | ROW_COLUMNS


@dataclass(frozen=True)
class Geometry:
    """Columns of one source; row ``i`` owns entries ``offsets[i]`` to ``offsets[i + 1]``.

    ``R`` rows, ``K`` media and ``M`` messages in all. Memory-mapped when opened from disk.
    """

    media_offsets: np.ndarray
    """``(R + 1,)`` int64 into the media columns."""
    media_kind: np.ndarray
    """``(K,)`` uint8: 0 image, 1 video."""
    media_width: np.ndarray
    """``(K,)`` int32, upright, in pixels."""
    media_height: np.ndarray
    """``(K,)`` int32, upright, in pixels."""
    media_duration: np.ndarray
    """``(K,)`` float64, seconds; 0 for images."""
    media_fps: np.ndarray
    """``(K,)`` float64, frames per second; 0 for images."""
    media_frames: np.ndarray
    """``(K,)`` int32, number of frames; 1 for images."""
    media_message: np.ndarray
    """``(K,)`` int32, index, inside its row, of the message that the medium stands in."""
    message_offsets: np.ndarray
    """``(R + 1,)`` int64 into the message columns."""
    message_role: np.ndarray
    """``(M,)`` uint8: 0 system, 1 user, 2 assistant."""
    row_modality: np.ndarray
    """``(R,)`` uint8: 0 text, 1 one image, 2 several images, 3 video."""
    row_flags: np.ndarray
    """``(R,)`` uint8, bits of ``FLAGS``."""
    row_subset: np.ndarray
    """``(R,)`` int32, index into ``Manifest.subsets``."""
    message_text_tokens: np.ndarray | None = None
    """``(M,)`` int32, tokens of a message without its media; None without a tokenizer key."""
    message_supervised: np.ndarray | None = None
    """``(M,)`` int32, tokens of a message that carry loss; None without a tokenizer key."""

    def __len__(self) -> int:
        return len(self.row_modality)

    def save(self, folder: Path) -> None:
        """Write each column except the tokens' as ``<name>.npy``."""
        folder.mkdir(parents=True, exist_ok=True)
        for name, dtype in COLUMNS.items():
            np.save(folder / f"{name}.npy", getattr(self, name).astype(dtype, copy=False))

    @classmethod
    def open(cls, folder: Path, tokenizer_key: str | None = None) -> "Geometry":
        """Map the columns of ``<source>/geometry``.

        Args:
            folder: Of the columns.
            tokenizer_key: ``Tokenizer.key``; None leaves the token columns out.

        Raises:
            DataNotFoundError: A column, or the columns of this tokenizer, are missing.
            DataError: Columns have the wrong type or do not fit one another.
        """
        columns = {name: _map(folder / f"{name}.npy", dtype) for name, dtype in COLUMNS.items()}
        if tokenizer_key is not None:
            tokens = token_folder(folder, tokenizer_key)
            columns |= {n: _map(tokens / f"{n}.npy", dtype) for n, dtype in TOKEN_COLUMNS.items()}
        geometry = cls(**columns)
        geometry.check(folder)
        return geometry

    def check(self, where: Path) -> None:
        """Compare the lengths of all columns.

        Raises:
            DataError: Two columns disagree; names both.
        """
        rows = len(self.row_modality)
        expected = dict.fromkeys(OFFSET_COLUMNS, rows + 1) | dict.fromkeys(ROW_COLUMNS, rows)
        for field in fields(self):
            column = getattr(self, field.name)
            if column is None:
                continue
            offsets = self.media_offsets if field.name in MEDIA_COLUMNS else self.message_offsets
            length = expected.get(field.name)
            if length is None:
                length = int(offsets[-1]) if len(offsets) else 0
            if len(column) != length:
                raise DataError(
                    f"{where}: column {field.name} has {len(column)} entries, expected {length} "
                    f"for {rows} rows; the folder is damaged, remove it and prepare it again"
                )


def token_folder(geometry_folder: Path, tokenizer_key: str) -> Path:
    """Where the token columns of one tokenizer lie."""
    return geometry_folder / f"tokens-{tokenizer_key}"


def _map(path: Path, dtype: str) -> np.ndarray:
    try:
        column = np.load(path, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError as error:
        source = path.parents[2 if path.parent.name.startswith("tokens-") else 1].name
        raise DataNotFoundError(
            f"{path}: missing; run: smolvlm2 prepare {source} (it adds what is missing, also for "
            "another tokenizer)"
        ) from error
    except (ValueError, EOFError) as error:
        raise DataError(
            f"{path}: not a NumPy column ({error}); prepare the source again"
        ) from error
    if column.dtype != np.dtype(dtype) or column.ndim != 1:
        raise DataError(
            f"{path}: found {column.dtype} with {column.ndim} dimensions, expected a flat {dtype}; "
            "prepare the source again"
        )
    return column
