"""Rows about the same images or clip, joined as turns of one sample: encoded once, asked often.

A grouped source looks like the source that it is made of, with fewer and longer rows. It is made
once for a number of rows and a tokenizer, and lies in a folder of its own beside the geometry.
"""

import shutil
from collections.abc import Iterable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from smolvlm2.data.geometry import (
    MEDIA_COLUMNS,
    ROLES,
    TOKEN_COLUMNS,
    Geometry,
    token_folder,
)
from smolvlm2.data.kept_results import hold, prune, put_in_place
from smolvlm2.data.manifest import Manifest, ManifestRow
from smolvlm2.data.shards import unfinished_name
from smolvlm2.errors import DataError
from smolvlm2.processing.lengths import turn_tokens
from smolvlm2.processing.tokenizer import Tokenizer

ROWS_FILE, OFFSETS_FILE = "rows.npy", "offsets.npy"


class GroupedManifest(Manifest):
    """A source whose row ``i`` is made of rows ``members(i)`` of another; use ``open_grouped``."""

    def __init__(self, base: Manifest, folder: Path) -> None:
        """Map a finished grouping."""
        self.folder = base.folder
        self.tokenizer_key = base.tokenizer_key
        self._base, self._grouping = base, folder
        self._table, self._facts = base._table, base._facts
        self._rows = np.load(folder / ROWS_FILE, mmap_mode="r")
        self._offsets = np.load(folder / OFFSETS_FILE, mmap_mode="r")
        self.geometry = Geometry.open(folder, base.tokenizer_key)

    def __reduce__(self) -> tuple[Any, ...]:
        return GroupedManifest, (self._base, self._grouping)

    def __len__(self) -> int:
        return len(self._offsets) - 1

    @property
    def hash(self) -> str:
        """Hash of the source and of how it is grouped."""
        return f"{self._base.hash}-{self._grouping.name}"

    def members(self, index: int) -> list[int]:
        """The source's rows that row ``index`` is made of."""
        place = self._place(index)
        found: list[int] = self._rows[self._offsets[place] : self._offsets[place + 1]].tolist()
        return found

    @property
    def base_hash(self) -> str:
        """Hash of the source that is grouped."""
        return self._base.hash

    def holding(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Rows that are made of any of the source's rows given, ascending."""
        places = np.flatnonzero(np.isin(self._rows, rows))
        return np.unique(np.searchsorted(self._offsets, places, side="right") - 1)

    def sample_id(self, index: int) -> str:
        """The id of its first row, and how many more there are."""
        first, *others = self.members(index)
        return _joined_id(self._base.sample_id(first), len(others))

    def find(self, sample_id: str) -> int | None:
        """The row with an id, or that holds the source's row with that id."""
        row = self._base.find(sample_id)
        first, joined, _ = sample_id.rpartition("+")
        if row is None and joined:
            row = self._base.find(first)
        return None if row is None else int(self.holding(np.array([row]))[0])

    def messages(self, rows: Iterable[int]) -> list[list[dict[str, Any]]]:
        """The messages of many joined rows."""
        return [self.row(row).messages for row in rows]

    def row(self, index: int) -> ManifestRow:
        """Read the rows and join them."""
        return join_rows([self._base.row(member) for member in self.members(index)])


def join_rows(rows: list[ManifestRow]) -> ManifestRow:
    """The first row, then the turns of the others without the media that it has shown."""
    first, *others = rows
    messages = list(first.messages)
    for row in others:
        for message in row.messages:
            text = [part for part in message["content"] if part["type"] == "text"]
            messages.append({**message, "content": text})
    return replace(first, sample_id=_joined_id(first.sample_id, len(others)), messages=messages)


def _joined_id(first: str, others: int) -> str:
    return f"{first}+{others}" if others else first


def open_grouped(manifest: Manifest, most: int, tokenizer: Tokenizer) -> Manifest:
    """Join up to ``most`` rows about the same media; made where it does not lie yet.

    Rows are joined when they are of one subset, list the same media, show all of them in their
    first message, begin with a question and have no flag.

    Args:
        manifest: A source, opened with the columns of the tokenizer.
        most: Rows of one sample; 1 gives the source itself.
        tokenizer: Counts the tokens of joined conversations.

    Raises:
        DataError: It is not there and cannot be written.
    """
    if most == 1:
        return manifest
    folder = manifest.folder / f"grouped-{most}-{tokenizer.key}-{manifest.hash[:16]}"
    if not hold(folder / OFFSETS_FILE):
        unfinished = folder.with_name(unfinished_name(folder.name))
        shutil.rmtree(unfinished, ignore_errors=True)
        try:
            _write(manifest, most, tokenizer, unfinished)
            put_in_place(unfinished, folder)
        except OSError as error:
            raise DataError(
                f"{folder}: cannot be written ({error}); rows about the same media are joined once "
                "for a tokenizer: plan the recipe once where there are room and rights (smolvlm2 "
                "plan), or set data.mixture.group_by_media=1"
            ) from error
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)
        hold(folder / OFFSETS_FILE)
        prune(manifest.folder, "grouped-*", file=OFFSETS_FILE)
    return GroupedManifest(manifest, folder)


def _write(manifest: Manifest, most: int, tokenizer: Tokenizer, folder: Path) -> None:
    rows, offsets = group_rows(manifest, most)
    first = rows[offsets[:-1]]
    geometry = _grouped_geometry(manifest, rows, offsets, first, tokenizer)
    geometry.save(folder)
    tokens = token_folder(folder, tokenizer.key)
    tokens.mkdir()
    for name, dtype in TOKEN_COLUMNS.items():
        np.save(tokens / f"{name}.npy", getattr(geometry, name).astype(dtype, copy=False))
    np.save(folder / OFFSETS_FILE, offsets)
    np.save(folder / ROWS_FILE, rows)


def group_rows(manifest: Manifest, most: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Which rows make which sample.

    Returns:
        Rows, sample after sample, and ``(samples + 1,)`` offsets into them. Samples are ordered by
        their first row.
    """
    geometry = manifest.geometry
    media = manifest._table.column("media").combine_chunks().dictionary_encode()
    number = np.asarray(media.indices).astype(np.int64)
    everything = np.arange(len(manifest))
    shown = np.diff(geometry.media_offsets)
    later = np.zeros(len(manifest), dtype=np.int64)
    owner = np.repeat(everything, shown)
    np.add.at(later, owner, geometry.media_message > 0)
    opening = geometry.message_role[geometry.message_offsets[:-1]]
    joins = (shown > 0) & (later == 0) & (geometry.row_flags == 0)
    joins &= opening == ROLES.index("user")
    # A row that joins none is a group of its own.
    key = np.where(joins, number, number.max(initial=0) + 1 + everything)
    order = np.lexsort((everything, geometry.row_subset, key))
    begins = np.ones(len(order), dtype=bool)
    same = (np.diff(key[order]) == 0) & (np.diff(geometry.row_subset[order]) == 0)
    begins[1:] = ~same
    starts = np.flatnonzero(begins)
    place = everything - np.repeat(starts, np.diff(np.append(starts, len(order))))
    begins |= place % most == 0
    starts = np.flatnonzero(begins)
    counts = np.diff(np.append(starts, len(order)))
    by_first = np.argsort(order[starts], kind="stable")
    counts = counts[by_first]
    offsets = np.concatenate([[0], np.cumsum(counts)])
    within = np.arange(len(order)) - np.repeat(offsets[:-1], counts)
    return order[np.repeat(starts[by_first], counts) + within], offsets


def _grouped_geometry(
    manifest: Manifest,
    rows: NDArray[np.int64],
    offsets: NDArray[np.int64],
    first: NDArray[np.int64],
    tokenizer: Tokenizer,
) -> Geometry:
    """Media and kinds of the first rows, messages of all, tokens counted where rows were joined."""
    geometry = manifest.geometry
    assert geometry.message_text_tokens is not None
    assert geometry.message_supervised is not None
    media, media_offsets = _spans(geometry.media_offsets, first)
    messages, row_ends = _spans(geometry.message_offsets, rows)
    message_offsets = row_ends[offsets]
    text = geometry.message_text_tokens[messages]
    supervised = geometry.message_supervised[messages]
    for sample in np.flatnonzero(np.diff(offsets) > 1).tolist():
        members = rows[offsets[sample] : offsets[sample + 1]].tolist()
        joined = join_rows([manifest.row(member) for member in members])
        counted = turn_tokens(joined.messages, tokenizer)
        part = slice(message_offsets[sample], message_offsets[sample + 1])
        text[part], supervised[part] = counted.text, counted.supervised
    columns: dict[str, Any] = {name: getattr(geometry, name)[media] for name in MEDIA_COLUMNS}
    columns |= {
        "media_offsets": media_offsets,
        "message_offsets": message_offsets,
        "message_role": geometry.message_role[messages],
        "message_text_tokens": text,
        "message_supervised": supervised,
    }
    for field in fields(Geometry):
        if field.name.startswith("row_"):
            columns[field.name] = getattr(geometry, field.name)[first]
    return Geometry(**columns)


def _spans(
    offsets: NDArray[np.int64], rows: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Entries of some rows, row after row, and the offsets that separate them."""
    starts, counts = offsets[rows], offsets[rows + 1] - offsets[rows]
    ends = np.concatenate([[0], np.cumsum(counts)])
    return np.arange(ends[-1]) - np.repeat(ends[:-1] - starts, counts), ends
