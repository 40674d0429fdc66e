"""From geometry to lengths: tiles, tokens and supervised tokens of rows, without reading them."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from smolvlm2.data.geometry import ROLES, Geometry
from smolvlm2.data.media import IMAGE
from smolvlm2.processing.lengths import LengthModel


@dataclass(kw_only=True, frozen=True)
class RowLengths:
    """Lengths of rows under a recipe; one entry a row."""

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


def measure_rows(
    geometry: Geometry,
    lengths: LengthModel,
    *,
    max_tokens: int,
    max_turns: int | None = None,
    longest_edge: int | None = None,
) -> RowLengths:
    """Compute the lengths of all rows, vectorised.

    Args:
        geometry: Of the rows, with token columns.
        lengths: Of the processor in use.
        max_tokens: Most tokens of a conversation.
        max_turns: Most answers of a conversation.
        longest_edge: Of images, pixels; None: as the processor's setting has it.
    """
    assert geometry.message_text_tokens is not None
    assert geometry.message_supervised is not None
    media_tiles, media_tokens = _media_lengths(geometry, lengths, longest_edge)
    media_owner = np.repeat(np.arange(len(geometry)), np.diff(geometry.media_offsets))
    media_message = geometry.message_offsets[media_owner] + geometry.media_message
    tokens_M = geometry.message_text_tokens.astype(np.int64)
    np.add.at(tokens_M, media_message, media_tokens)
    tiles_M = np.zeros(len(tokens_M), dtype=np.int64)
    np.add.at(tiles_M, media_message, media_tiles)
    kept, cut = _kept_messages(geometry, tokens_M, max_tokens, max_turns)
    starts = geometry.message_offsets[:-1]
    return RowLengths(
        messages=kept,
        cut=cut,
        tokens=_span_sums(tokens_M, starts, starts + kept),
        tiles=_span_sums(tiles_M, starts, starts + kept),
        supervised=_span_sums(geometry.message_supervised, starts, starts + kept),
    )


def _media_lengths(
    geometry: Geometry, lengths: LengthModel, longest_edge: int | None
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Tiles and tokens of every medium, ``(K,)`` each."""
    tiles = np.zeros(len(geometry.media_kind), dtype=np.int64)
    tokens = np.zeros_like(tiles)
    images = np.flatnonzero(geometry.media_kind == IMAGE)
    videos = np.flatnonzero(geometry.media_kind != IMAGE)
    if len(images):
        tiles[images], tokens[images] = lengths.images(
            geometry.media_width[images], geometry.media_height[images], longest_edge
        )
    if len(videos):
        tiles[videos], tokens[videos] = lengths.videos(
            geometry.media_duration[videos],
            geometry.media_fps[videos],
            geometry.media_frames[videos],
        )
    return tiles, tokens


def _kept_messages(
    geometry: Geometry, tokens_M: NDArray[np.int64], max_tokens: int, max_turns: int | None
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
    fitting = answer & (running <= max_tokens)
    if max_turns is not None:
        answers = np.concatenate([[0], answer.cumsum()])
        fitting &= answers[1:] - np.repeat(answers[offsets[:-1]], counts) <= max_turns
    fits = np.where(fitting, place + 1, 0)
    kept = np.maximum.reduceat(fits, offsets[:-1])
    return kept, kept < counts


def _span_sums(
    values: NDArray[np.int64], starts: NDArray[np.int64], ends: NDArray[np.int64]
) -> NDArray[np.int64]:
    before = np.concatenate([[0], np.asarray(values, dtype=np.int64).cumsum()])
    return before[ends] - before[starts]
