"""Which rows of a source a recipe admits, and how long they are: computed once, then mapped.

The result lies beside the source, keyed by everything that it depends on: opening 24 million
samples again takes no time and no memory.
"""

import errno
import hashlib
import json
import logging
import os
import shutil
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib.format import open_memmap
from numpy.typing import NDArray

from smolvlm2.data.contamination import contaminated_rows
from smolvlm2.data.geometry import FLAGS, MEDIA_COLUMNS, MESSAGE_COLUMNS, TOKEN_COLUMNS, Geometry
from smolvlm2.data.kept_results import hold, prune, put_in_place
from smolvlm2.data.manifest import Manifest
from smolvlm2.data.shards import unfinished_name
from smolvlm2.errors import DataError
from smolvlm2.loading.ordered_geometry import geometry_in_orders
from smolvlm2.loading.row_lengths import measure_rows
from smolvlm2.plan.samples import RECORD, map_records
from smolvlm2.processing.lengths import LengthModel

logger = logging.getLogger(__name__)

VERSION = 1
"""Of the files below."""
CHUNK_ROWS = 1 << 16
"""Rows measured at a time: temporaries take about 100 MB where rows have many turns."""
RECORDS_FILE = "records.npy"
FACTS_FILE = "facts.json"


@dataclass(kw_only=True, frozen=True)
class Admission:
    """What decides whether a row is admitted."""

    max_tokens: int
    """Most tokens of a conversation, whole turns are cut from its end."""
    max_images: int | None
    """Most images or clips of a sample."""
    max_turns: int | None = None
    """Most answers of a conversation, the rest is cut from its end."""
    turn_orders: int = 0
    """Orders of a sample's turns; 0: the published one alone."""
    exclude: tuple[str, ...]
    """Flags of prepare that leave a row out."""


@dataclass(kw_only=True)
class AdmittedRows:
    """Admitted rows of a source, sorted by subset and in a subset by row."""

    columns: dict[str, np.ndarray]
    """Of `RECORD`, one entry a row, order of turns and budget of tiles (`LengthModel.budgets`)."""
    offsets: NDArray[np.int64]
    """``(subsets + 1,)`` first entry of each subset."""
    subsets: list[dict[str, Any]]
    """Of each subset: ``samples``, ``excluded`` by reason, ``cut``, and sums and maxima as in
    ``SourceTable.totals``."""
    digest: str
    """Hash of the columns."""
    records: Path | None
    """File of the columns; None: they are in memory."""


def admitted_rows(manifest: Manifest, lengths: LengthModel, admission: Admission) -> AdmittedRows:
    """Open what was computed before for a source under a recipe, or compute and keep it.

    Args:
        manifest: Of the source, opened with token columns.
        lengths: Of the processor in use.
        admission: What the recipe admits.

    Raises:
        DataError: The manifest was opened without token columns.
    """
    if manifest.geometry.message_text_tokens is None:
        raise DataError(f"{manifest.folder}: opened without token columns")
    contaminated = manifest.holding(contaminated_rows(manifest.folder, manifest.base_hash))
    folder = manifest.folder / f"lengths-{_key(manifest, lengths, admission, contaminated)}"
    if not hold(folder / FACTS_FILE):
        unfinished = folder.with_name(unfinished_name(folder.name))
        shutil.rmtree(unfinished, ignore_errors=True)  # of a process of this number that died
        try:
            unfinished.mkdir()
        except OSError as error:
            logger.info("%s: cannot be written (%s), lengths stay in memory", folder, error)
            return _compute(manifest, lengths, admission, contaminated, None)
        try:
            _compute(manifest, lengths, admission, contaminated, unfinished)
            put_in_place(unfinished, folder)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            logger.info("%s: no room (%s), lengths stay in memory", folder, error)
            return _compute(manifest, lengths, admission, contaminated, None)
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)
        hold(folder / FACTS_FILE)
        prune(manifest.folder, "lengths-*", file=FACTS_FILE)
    facts = json.loads((folder / FACTS_FILE).read_text(encoding="utf-8"))
    columns = map_records(folder / RECORDS_FILE)
    return AdmittedRows(columns=columns, records=folder / RECORDS_FILE, **_restored(facts))


def _restored(facts: dict[str, Any]) -> dict[str, Any]:
    counts = [subset["samples"] for subset in facts["subsets"]]
    offsets = np.concatenate([[0], np.cumsum(counts, dtype=np.int64)])
    return {"offsets": offsets, "subsets": facts["subsets"], "digest": facts["digest"]}


def _key(
    manifest: Manifest,
    lengths: LengthModel,
    admission: Admission,
    contaminated: NDArray[np.int64],
) -> str:
    image, video = asdict(lengths.image), asdict(lengths.video)
    # These change pixels or speed, never a length.
    image.pop("resample")
    for name in ("backend", "timeout_s"):
        video.pop(name, None)
    parts = {
        "version": VERSION,
        "source": manifest.hash,
        "tokenizer": lengths.tokenizer.key,
        "tokens_per_tile": lengths.tokens_per_tile,
        "tile_size": lengths.tile_size,
        "image": image,
        "video": video,
        "contaminated": hashlib.sha256(contaminated.tobytes()).hexdigest(),
        **asdict(admission),
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def _compute(
    manifest: Manifest,
    lengths: LengthModel,
    admission: Admission,
    contaminated: NDArray[np.int64],
    folder: Path | None,
) -> AdmittedRows:
    """Measure all rows by chunks, then sort them by subset; with a folder, on disk."""
    rows, names = len(manifest), manifest.subsets
    counters = [Counter[str]() for _ in names]
    excluded = [Counter[str]() for _ in names]
    orders, chances = max(admission.turn_orders, 1), lengths.budgets.chances
    variants = orders * len(chances)
    found = _storage(folder, "unsorted.npy", RECORD, (rows, variants))
    subset_of = _storage(folder, "subsets.npy", np.dtype("<i4"), (rows,))
    admitted = 0
    for start in range(0, rows, CHUNK_ROWS):
        stop = min(start + CHUNK_ROWS, rows)
        known = contaminated[(contaminated >= start) & (contaminated < stop)]
        cut, records, subset = _admit(manifest, lengths, admission, known, start, stop, excluded)
        found[admitted : admitted + len(records)] = records
        subset_of[admitted : admitted + len(records)] = subset
        admitted += len(records)
        _count(records, subset, cut, counters, chances * orders)
        if rows > CHUNK_ROWS:
            logger.info("%s: measured %d of %d rows", manifest.source, stop, rows)
    counts = [counter["samples"] for counter in counters]
    offsets = np.concatenate([[0], np.cumsum(counts, dtype=np.int64)])
    target = _storage(folder, RECORDS_FILE, RECORD, (admitted, variants))
    ahead, digest = offsets[:-1].copy(), hashlib.sha256()
    for start in range(0, admitted, CHUNK_ROWS):
        subset = np.asarray(subset_of[start : min(start + CHUNK_ROWS, admitted)])
        order = np.argsort(subset, kind="stable")
        number = np.bincount(subset, minlength=len(names))
        first = np.cumsum(number) - number
        place = np.arange(len(order)) - np.repeat(first, number) + np.repeat(ahead, number)
        target[place] = found[start + order]
        ahead += number
    for start in range(0, admitted, CHUNK_ROWS):
        digest.update(np.ascontiguousarray(target[start : start + CHUNK_ROWS]).tobytes())
    subsets = [
        {**counter, "samples": counter["samples"], "excluded": dict(reasons)}
        for counter, reasons in zip(counters, excluded, strict=True)
    ]
    facts = {"subsets": subsets, "digest": digest.hexdigest()}
    if folder is not None:
        if isinstance(target, np.memmap):
            target.flush()
        for name in ("unsorted.npy", "subsets.npy"):
            (folder / name).unlink()
        (folder / FACTS_FILE).write_text(json.dumps(facts), encoding="utf-8")
    columns = {name: target.reshape(-1)[name] for name in RECORD.names or ()}
    return AdmittedRows(columns=columns, records=None, **_restored(facts))


def _storage(folder: Path | None, name: str, dtype: np.dtype, shape: tuple[int, ...]) -> Any:
    # A file of no entries cannot be mapped.
    if folder is None or not shape[0]:
        array = np.zeros(shape, dtype=dtype)
        if folder is not None:
            np.save(folder / name, array)
        return array
    array = open_memmap(folder / name, mode="w+", dtype=dtype, shape=shape)
    if hasattr(os, "posix_fallocate"):
        # What is not reserved now is a bus error, without a word, once the disk is full.
        with (folder / name).open("r+b") as file:
            os.posix_fallocate(file.fileno(), 0, os.fstat(file.fileno()).st_size)
    return array


def _admit(
    manifest: Manifest,
    lengths: LengthModel,
    admission: Admission,
    contaminated: NDArray[np.int64],
    start: int,
    stop: int,
    excluded: Sequence[Counter[str]],
) -> tuple[NDArray[np.bool_], np.ndarray, NDArray[np.int32]]:
    """Records of the admitted rows of a chunk, whether they were cut, and their subsets.

    The largest budget of tiles decides whether a row is admitted: in every order of its turns its
    first pair must fit.
    """
    part = _rows(manifest.geometry, start, stop)
    found = [
        measure_rows(
            ordered,
            lengths,
            max_tokens=admission.max_tokens,
            max_turns=admission.max_turns,
            longest_edge=edge,
        )
        for ordered in geometry_in_orders(
            part, manifest, start, lengths.tokenizer, admission.turn_orders
        )
        for edge in lengths.budgets.edges
    ]
    largest = found[len(lengths.budgets.edges) - 1 :: len(lengths.budgets.edges)]
    chosen = np.ones(len(part), dtype=bool)

    def leave_out(reason: str, rows: NDArray[np.bool_]) -> None:
        nonlocal chosen
        counts = np.bincount(part.row_subset[chosen & rows], minlength=len(excluded))
        for subset in np.flatnonzero(counts).tolist():
            excluded[subset][reason] += int(counts[subset])
        chosen &= ~rows

    leave_out("contaminated", np.isin(np.arange(start, stop), contaminated))
    for flag in admission.exclude:
        leave_out(flag, (part.row_flags & FLAGS[flag]) > 0)
    if admission.max_images is not None:
        leave_out("too_many_images", np.diff(part.media_offsets) > admission.max_images)
    leave_out("too_long", np.any([each.messages == 0 for each in largest], axis=0))
    kept = np.flatnonzero(chosen)
    records = np.zeros((len(kept), len(found)), dtype=RECORD)
    records["rows"] = (kept + start)[:, None]
    for name in ("tiles", "tokens", "supervised", "messages"):
        for variant, rows in enumerate(found):
            records[name][:, variant] = getattr(rows, name)[kept]
    records["modality"] = part.row_modality[kept, None]
    cut = np.any([each.cut for each in largest], axis=0)
    return cut[kept], records, np.asarray(part.row_subset[kept])


def _count(
    records: np.ndarray,
    subset: NDArray[np.int32],
    cut: NDArray[np.bool_],
    counters: Sequence[Counter[str]],
    chances: tuple[int, ...],
) -> None:
    """Add up a chunk; sums are those that are expected of all orders and the draws of budgets.

    ``chances`` are those of each record of a row.
    """
    for number in np.unique(subset).tolist():
        here, counter = subset == number, counters[number]
        counter["samples"] += int(here.sum())
        counter["cut"] += int(cut[here].sum())
        for name in ("tiles", "tokens", "supervised"):
            values = records[name][here].astype(np.int64)
            counter[name] += int((values * np.array(chances)).sum()) // sum(chances)
            if name != "supervised":
                most = f"max_{name}"
                counter[most] = max(counter[most], int(values.max()))


def _rows(geometry: Geometry, start: int, stop: int) -> Geometry:
    """The columns of some rows, with offsets from 0."""
    media, messages = (
        (int(offsets[start]), int(offsets[stop]))
        for offsets in (geometry.media_offsets, geometry.message_offsets)
    )
    columns: dict[str, Any] = {
        "media_offsets": geometry.media_offsets[start : stop + 1] - media[0],
        "message_offsets": geometry.message_offsets[start : stop + 1] - messages[0],
    }
    for name in MEDIA_COLUMNS:
        columns[name] = getattr(geometry, name)[slice(*media)]
    for name in (*MESSAGE_COLUMNS, *TOKEN_COLUMNS):
        columns[name] = getattr(geometry, name)[slice(*messages)]
    for name in ("row_modality", "row_flags", "row_subset"):
        columns[name] = getattr(geometry, name)[start:stop]
    return replace(geometry, **columns)
