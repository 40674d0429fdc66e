"""From geometry to what the planner sees: tiles, tokens and supervised tokens of every sample."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from smolvlm2.data.geometry import FLAGS, ROLES, Geometry
from smolvlm2.data.manifest import Manifest
from smolvlm2.data.media import IMAGE
from smolvlm2.data.mixture import MixtureEntry, MixtureSettings
from smolvlm2.errors import ConfigError, DataError
from smolvlm2.plan.samples import SourceTable
from smolvlm2.processing.lengths import LengthModel


@dataclass(kw_only=True)
class LimitSettings:
    """Which samples a recipe admits; what it leaves out is counted by reason."""

    max_tokens: int | None = None
    """Most tokens of a conversation, whole turns are cut from its end; default: the context."""
    max_images: int | None = None
    """Most images or clips of a sample; a sample with more is left out whole."""
    exclude: list[Literal["refusal", "speech_dependent"]] = field(
        default_factory=lambda: ["refusal", "speech_dependent"]
    )
    """Flags of prepare that leave a sample out."""

    def __post_init__(self) -> None:
        for name in ("max_tokens", "max_images"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"limits.{name} is {value}, expected at least 1")


def open_sources(
    mixture: MixtureSettings, prepared: Path, tokenizer_key: str
) -> dict[str, Manifest]:
    """The manifest of each source that a mixture names, opened once however many subsets it has.

    Raises:
        DataNotFoundError: A source is not prepared, or not for this tokenizer.
    """
    names = dict.fromkeys(entry.source for entry in mixture.entries)
    return {name: Manifest.open(prepared / name, tokenizer_key) for name in names}


@dataclass(kw_only=True, frozen=True)
class SourceLengths:
    """Lengths of all rows of a source under a recipe; one entry a row."""

    messages: NDArray[np.int64]
    """Messages that fit, up to a whole answer; 0 where not even the first pair does."""
    cut: NDArray[np.bool_]
    """Whether messages were cut."""
    tokens: NDArray[np.int64]
    """Of the messages kept, visual tokens included."""
    tiles: NDArray[np.int64]
    """Of the messages kept."""
    supervised: NDArray[np.int64]
    """Of the messages kept."""


def measure_source(manifest: Manifest, lengths: LengthModel, *, max_tokens: int) -> SourceLengths:
    """Compute the lengths of all rows, vectorised; done once for all entries of a source.

    Args:
        manifest: Of the source, opened with token columns.
        lengths: Of the processor in use.
        max_tokens: Most tokens of a conversation.
    """
    geometry = manifest.geometry
    if geometry.message_text_tokens is None or geometry.message_supervised is None:
        raise DataError(f"{manifest.folder}: opened without token columns")
    media_tiles, media_tokens = _media_lengths(geometry, lengths)
    media_owner = np.repeat(np.arange(len(geometry)), np.diff(geometry.media_offsets))
    media_message = geometry.message_offsets[media_owner] + geometry.media_message
    tokens_M = geometry.message_text_tokens.astype(np.int64)
    np.add.at(tokens_M, media_message, media_tokens)
    tiles_M = np.zeros(len(tokens_M), dtype=np.int64)
    np.add.at(tiles_M, media_message, media_tiles)
    kept, cut = _kept_messages(geometry, tokens_M, max_tokens)
    starts = geometry.message_offsets[:-1]
    return SourceLengths(
        messages=kept,
        cut=cut,
        tokens=_span_sums(tokens_M, starts, starts + kept),
        tiles=_span_sums(tiles_M, starts, starts + kept),
        supervised=_span_sums(geometry.message_supervised, starts, starts + kept),
    )


def source_table(
    entry: MixtureEntry, manifest: Manifest, measured: SourceLengths, limits: LimitSettings
) -> SourceTable:
    """Apply an entry's subset and the recipe's limits.

    Args:
        entry: The source or subset.
        manifest: Of the source.
        measured: Lengths of the source's rows.
        limits: Of the recipe.

    Raises:
        DataError: The entry names a subset that the source does not have.
    """
    geometry = manifest.geometry
    chosen = _rows_of(entry, manifest)
    excluded: dict[str, int] = {}

    def leave_out(reason: str, rows: NDArray[np.bool_]) -> None:
        nonlocal chosen
        if count := int((chosen & rows).sum()):
            excluded[reason] = excluded.get(reason, 0) + count
        chosen &= ~rows

    for flag in limits.exclude:
        leave_out(flag, (geometry.row_flags & FLAGS[flag]) > 0)
    if limits.max_images is not None:
        leave_out("too_many_images", np.diff(geometry.media_offsets) > limits.max_images)
    leave_out("too_long", measured.messages == 0)
    rows = np.flatnonzero(chosen)
    return SourceTable(
        name=entry.name,
        rows=rows,
        tiles=measured.tiles[rows].astype(np.int32),
        tokens=measured.tokens[rows].astype(np.int32),
        supervised=measured.supervised[rows].astype(np.int32),
        messages=measured.messages[rows].astype(np.int32),
        modality=np.asarray(geometry.row_modality[rows]),
        excluded=excluded,
        cut=int(measured.cut[rows].sum()),
        content=manifest.hash,
    )


def _rows_of(entry: MixtureEntry, manifest: Manifest) -> NDArray[np.bool_]:
    if entry.subset is None:
        return np.ones(len(manifest), dtype=bool)
    if entry.subset not in manifest.subsets:
        raise DataError(
            f"source {entry.source!r} has no subset {entry.subset!r}; it has "
            f"{', '.join(manifest.subsets)}"
        )
    return np.asarray(manifest.geometry.row_subset == manifest.subsets.index(entry.subset))


def _media_lengths(
    geometry: Geometry, lengths: LengthModel
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Tiles and tokens of every medium, ``(K,)`` each."""
    tiles = np.zeros(len(geometry.media_kind), dtype=np.int64)
    tokens = np.zeros_like(tiles)
    images = np.flatnonzero(geometry.media_kind == IMAGE)
    videos = np.flatnonzero(geometry.media_kind != IMAGE)
    if len(images):
        tiles[images], tokens[images] = lengths.images(
            geometry.media_width[images], geometry.media_height[images]
        )
    if len(videos):
        tiles[videos], tokens[videos] = lengths.videos(
            geometry.media_duration[videos],
            geometry.media_fps[videos],
            geometry.media_frames[videos],
        )
    return tiles, tokens


def _kept_messages(
    geometry: Geometry, tokens_M: NDArray[np.int64], max_tokens: int
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Messages of each row that fit, up to a whole answer; and which rows lost some.

    A conversation is cut after an assistant's message; 0 means that not even the first pair fits.
    """
    offsets = geometry.message_offsets
    if not len(geometry):
        return np.zeros(0, dtype=np.int64), np.zeros(0, dtype=bool)
    counts = np.diff(offsets)
    before = np.concatenate([[0], tokens_M.cumsum()])
    running = before[1:] - np.repeat(before[offsets[:-1]], counts)
    place = np.arange(len(tokens_M)) - np.repeat(offsets[:-1], counts)
    answer = geometry.message_role == ROLES.index("assistant")
    fits = np.where(answer & (running <= max_tokens), place + 1, 0)
    kept = np.maximum.reduceat(fits, offsets[:-1])
    return kept, kept < counts


def _span_sums(
    values: NDArray[np.int64], starts: NDArray[np.int64], ends: NDArray[np.int64]
) -> NDArray[np.int64]:
    before = np.concatenate([[0], np.asarray(values, dtype=np.int64).cumsum()])
    return before[ends] - before[starts]
