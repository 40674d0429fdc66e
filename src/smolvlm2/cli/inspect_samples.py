"""Which samples ``inspect`` shows, and what the model sees of each."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow.compute as pc

from smolvlm2.cli.opened_mixture import OpenedEntry, OpenedMixture
from smolvlm2.data.geometry import FLAGS, ROW_MODALITIES
from smolvlm2.data.manifest import LEDGER_FILE, Manifest
from smolvlm2.data.media import MediaStore
from smolvlm2.errors import DataError, MediaError, PromptError
from smolvlm2.loading.turn_orders import reorder_turns, turn_key
from smolvlm2.plan.permutation import derive_key, permute
from smolvlm2.processing.processor import ProcessedSample


@dataclass(kw_only=True)
class Medium:
    """An image or clip of a sample."""

    kind: str
    """``image`` or ``video``."""
    where: str
    """File, and bytes in it."""
    width: int
    """Upright, in pixels."""
    height: int
    """Upright, in pixels."""
    duration: float
    """Seconds; 0 for an image."""
    fps: float
    """Frames a second; 0 for an image."""
    frames: int
    """1 for an image."""
    source: Any = None
    """What the processor was given; None where it could not be read."""


@dataclass(kw_only=True)
class Lengths:
    """Size of a sample, planned or real."""

    tokens: int
    """Visual tokens included."""
    tiles: int
    """Through the vision encoder."""
    supervised: int
    """Tokens with loss."""


@dataclass(kw_only=True)
class InspectedSample:
    """One sample, read as the loader reads it."""

    sample_id: str
    """Stable id."""
    entry: str
    """Of the mixture."""
    subset: str
    """Of the source."""
    modality: str
    """One of ``plan.samples.MODALITIES``."""
    flags: list[str]
    """Set by prepare."""
    messages: list[dict[str, Any]]
    """As in the source's first epoch; all of them where the recipe leaves the sample out."""
    cut: int
    """Messages that the recipe leaves off its end."""
    planned: Lengths | None
    """From the geometry; None where the recipe leaves the sample out."""
    media: list[Medium] = field(default_factory=list)
    """Of ``messages``."""
    sample: ProcessedSample | None = None
    """What ``Processor.encode_sample`` made of it; None where that failed."""
    error: str = ""
    """Why."""

    @property
    def lengths(self) -> Lengths | None:
        """Real size; None for a sample that cannot be read."""
        if self.sample is None:
            return None
        ids, supervised = self.sample.input_ids, self.sample.supervised
        return Lengths(
            tokens=len(ids), tiles=len(self.sample.tiles), supervised=int(supervised.sum())
        )


def draw_rows(opened: OpenedMixture, count: int, seed: int) -> list[tuple[OpenedEntry, int]]:
    """Choose admitted rows spread over modalities, entries and subsets.

    Each group of (entry, subset, modality) gives a row before any gives a second one; the groups
    of the modalities take turns. Equal arguments give equal rows.

    Args:
        opened: To choose from.
        count: Rows wanted; fewer where there are no more.
        seed: Chooses.

    Returns:
        Entries and rows of their manifests.
    """
    groups = list(_groups(opened))
    shuffled = [groups[i] for i in _permuted(len(groups), seed, 0).tolist()]
    turns: dict[int, int] = {}
    ranked = []
    for number, (entry, modality, rows) in enumerate(shuffled):
        turn = turns.get(modality, 0)
        turns[modality] = turn + 1
        wanted = min(count, len(rows))
        chosen = permute(np.arange(wanted), len(rows), derive_key(seed, number, 1))
        ranked += [
            (again, turn, number, entry, int(rows[place]))
            for again, place in enumerate(chosen.tolist())
        ]
    ranked.sort(key=lambda choice: choice[:3])
    return [(entry, row) for *_, entry, row in ranked[:count]]


def _groups(opened: OpenedMixture) -> Iterator[tuple[OpenedEntry, int, np.ndarray]]:
    """Entry, modality and admitted rows of each group that has some."""
    for entry in opened.entries:
        rows = entry.rows
        subset = np.asarray(entry.manifest.geometry.row_subset)[rows].astype(np.int64)
        code = subset * len(ROW_MODALITIES) + entry.modality
        order = np.argsort(code, kind="stable")
        values, starts = np.unique(code[order], return_index=True)
        for value, chosen in zip(values, np.split(order, starts[1:]), strict=False):
            yield entry, int(value) % len(ROW_MODALITIES), rows[chosen]


def _permuted(size: int, seed: int, purpose: int) -> np.ndarray:
    return (
        permute(np.arange(size), size, derive_key(seed, purpose, 0)) if size else np.zeros(0, int)
    )


def find_rows(opened: OpenedMixture, ids: Sequence[str]) -> list[tuple[OpenedEntry, int]]:
    """Look samples up by id, whether the recipe admits them or not.

    Where rows are joined, an id is that of the sample or of any of its rows.

    Raises:
        DataError: No such sample; says what the ledger knows of it, or which ids are near.
    """
    found = []
    for sample_id in ids:
        places = ((name, manifest.find(sample_id)) for name, manifest in opened.sources.items())
        name, row = next(((n, r) for n, r in places if r is not None), (None, -1))
        if name is None:
            raise DataError(_unknown(opened, sample_id))
        entries = [entry for entry in opened.entries if entry.manifest.source == name]
        admitting = (entry for entry in entries if entry.place(row) is not None)
        found.append((next(admitting, entries[0]), row))
    return found


def _unknown(opened: OpenedMixture, wanted: str) -> str:
    for manifest in opened.sources.values():
        for line in ledger_lines(manifest):
            if line.get("sample_id") == wanted:
                return (
                    f"sample {wanted!r} is not in the manifest: prepare left it out as "
                    f"{line['reason']} ({line['detail']}); see {manifest.folder / LEDGER_FILE}"
                )
    columns = [manifest.sample_ids for manifest in opened.sources.values()]
    near: list[str] = []
    length = len(wanted)
    while not near and length:  # ids that share the longest beginning
        for column in columns:
            near += column.filter(pc.starts_with(column, wanted[:length]))[:3].to_pylist()
        length -= 1
    hint = f"the nearest are {', '.join(map(repr, near[:3]))}" if near else "there is none like it"
    return f"sample {wanted!r} is in none of {', '.join(opened.sources)}; {hint}"


def ledger_lines(manifest: Manifest) -> Iterator[dict[str, Any]]:
    """Lines of a source's ledger, one by one."""
    path = manifest.folder / LEDGER_FILE
    if path.is_file():
        with path.open(encoding="utf-8") as lines:
            for line in lines:
                yield json.loads(line)


def inspect_row(opened: OpenedMixture, entry: OpenedEntry, row: int) -> InspectedSample:
    """Read and process one row exactly as the loader does; an error is kept, not raised."""
    manifest, place = entry.manifest, entry.place(row)
    geometry, published = manifest.geometry, manifest.row(row)
    kept = len(published.messages) if place is None else int(entry.messages[place])
    messages = published.messages
    if place is not None:
        key = turn_key(published.source, row, entry.turn_order)
        messages = reorder_turns(messages, key)[:kept]
    markers = sum(part["type"] != "text" for message in messages for part in message["content"])
    first = int(geometry.media_offsets[row])
    media = [
        Medium(
            kind=locator.kind,
            where=str(locator),
            width=int(geometry.media_width[first + number]),
            height=int(geometry.media_height[first + number]),
            duration=float(geometry.media_duration[first + number]),
            fps=float(geometry.media_fps[first + number]),
            frames=int(geometry.media_frames[first + number]),
        )
        for number, locator in enumerate(published.media[:markers])
    ]
    flags = int(geometry.row_flags[row])
    shown = InspectedSample(
        sample_id=published.sample_id,
        entry=entry.name,
        subset=manifest.subsets[int(geometry.row_subset[row])],
        modality=ROW_MODALITIES[int(geometry.row_modality[row])],
        flags=[name for name, bit in FLAGS.items() if flags & bit],
        messages=messages,
        cut=len(published.messages) - kept,
        planned=None if place is None else _planned(entry, place),
        media=media,
    )
    store = MediaStore(manifest.data_root)
    try:
        for medium, locator in zip(media, published.media, strict=False):
            medium.source = store.read(locator)
        edge = None if place is None else int(entry.longest_edge[place])
        limits = [edge if medium.kind == "image" else None for medium in media]
        sources = [medium.source for medium in media]
        shown.sample = opened.processor.encode_sample(messages, sources, limits)
    except (MediaError, PromptError) as error:
        reason = error.reason if isinstance(error, MediaError) else "placeholder_mismatch"
        shown.error = f"{reason}: {error}"
    return shown


def _planned(entry: OpenedEntry, place: int) -> Lengths:
    return Lengths(
        tokens=int(entry.tokens[place]),
        tiles=int(entry.tiles[place]),
        supervised=int(entry.supervised[place]),
    )


def fingerprint(shown: InspectedSample) -> str:
    """Of ids, mask and pixels: equal on two machines when the model sees the same."""
    assert shown.sample is not None
    digest = hashlib.blake2b(digest_size=8)
    for array in (shown.sample.input_ids, shown.sample.supervised, shown.sample.tiles):
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()
