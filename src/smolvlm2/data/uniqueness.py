"""Which samples of a source repeat an earlier one, and which ids must be told apart."""

import hashlib
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class FileKeys:
    """Keys of one file's samples, of ``part_files.KEY_TYPE``, in order."""

    file: str
    keys: np.ndarray


class SampleKeys:
    """Compares all samples of a source by their hashes; nothing here is a Python object a row."""

    def __init__(self, files: Sequence[FileKeys]) -> None:
        """Sort once by content and once by id.

        Args:
            files: In the order that decides which of several samples stays.
        """
        self._files = [each.file for each in files]
        self._starts = np.cumsum([0, *(len(each.keys) for each in files)]).tolist()
        total = self._starts[-1]
        self._rows = _joined(files, "row", (total,), np.int64)
        self.first = _first_equal(_joined(files, "content", (total, 2), np.uint64))
        """For each sample the number of the first with the same content, int64 ``(samples,)``."""
        self.kept = self.first == np.arange(total)
        """Which samples stay, bool ``(samples,)``."""
        ids = _joined(files, "id", (total, 2), np.uint64)
        self.occurrence = _occurrences(ids, self.kept)
        """How many samples that stay have the same id and come before, int32 ``(samples,)``."""
        self._taken = np.unique(ids[self.kept, 0])
        self._shift: dict[str, int] = {}

    def where(self, number: int) -> str:
        """File and row of a sample, for a human."""
        file = bisect_right(self._starts, number) - 1
        return f"row {self._rows[number]} of {self._files[file]}"

    def unique_id(self, sample_id: str, number: int) -> str:
        """The id of a sample that stays: ``~2``, ``~3``, ... behind those that repeat.

        Args:
            sample_id: As published.
            number: Of the sample; must be asked in order.
        """
        occurrence = int(self.occurrence[number])
        if not occurrence:
            return sample_id
        while True:
            shift = self._shift.get(sample_id, 0)
            wanted = f"{sample_id}~{occurrence + 1 + shift}"
            name = np.frombuffer(id_hash(wanted), dtype="<u8")[0]
            place = int(np.searchsorted(self._taken, name))
            if place == len(self._taken) or self._taken[place] != name:
                return wanted
            # Somebody published that very id.
            self._shift[sample_id] = shift + 1


def id_hash(sample_id: str) -> bytes:
    """16 bytes that stand for an id."""
    return hashlib.blake2b(sample_id.encode("utf-8"), digest_size=16).digest()


def _joined(
    files: Sequence[FileKeys], name: str, shape: tuple[int, ...], dtype: type
) -> np.ndarray:
    column: np.ndarray = np.empty(shape, dtype=dtype)
    start = 0
    for each in files:
        column[start : start + len(each.keys)] = each.keys[name]
        start += len(each.keys)
    return column


def _groups(hashes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Order that brings equal hashes together, earlier samples first; and where groups begin."""
    order = np.lexsort((hashes[:, 1], hashes[:, 0]))
    ordered = hashes[order]
    begins = np.ones(len(order), dtype=bool)
    begins[1:] = (ordered[1:] != ordered[:-1]).any(axis=1)
    return order, begins


def _first_equal(hashes: np.ndarray) -> np.ndarray:
    order, begins = _groups(hashes)
    first = np.empty(len(order), dtype=np.int64)
    first[order] = order[begins][np.cumsum(begins) - 1]
    return first


def _occurrences(hashes: np.ndarray, kept: np.ndarray) -> np.ndarray:
    """Number inside its group of equal hashes, of the samples kept; 0 elsewhere."""
    numbers = np.flatnonzero(kept)
    order, begins = _groups(hashes[numbers])
    places = np.arange(len(order))
    inside = places - np.maximum.accumulate(np.where(begins, places, 0))
    occurrence = np.zeros(len(kept), dtype=np.int32)
    occurrence[numbers[order]] = inside
    return occurrence
