"""One pack as arrays of fixed shape: where plan, data, processing, model and training meet.

L token slots, T tile slots, K visual tokens of a tile, S side of a tile in pixels.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from smolvlm2.errors import DataError
from smolvlm2.plan.packs import Capacity
from smolvlm2.processing.processor import ProcessedSample

BLANK = 127
"""Grey level of tile slots that hold no tile."""
CHUNK = 512
"""Columns of the loss arrays: supervised positions whose logits exist at one time."""

LossWeight = Literal["token", "sample", "sqrt"]


@dataclass(kw_only=True)
class MicroBatch:
    """A pack, ready for ``SmolVLM.forward``."""

    input_ids: NDArray[np.int64]
    """``(L,)``."""
    positions: NDArray[np.int64]
    """``(L,)`` position in the document."""
    document_ids: NDArray[np.int32]
    """``(L,)``; the padding is the last document."""
    cu_seqlens: NDArray[np.int32]
    """``(documents + 2,)``; unused documents are empty, the last one is the padding."""
    loss_positions: NDArray[np.int64]
    """``(chunks, C)`` position that predicts each target."""
    loss_targets: NDArray[np.int64]
    """``(chunks, C)``."""
    loss_weights: NDArray[np.float32]
    """``(chunks, C)``; 0 for filler."""
    pixel_values: NDArray[np.uint8]
    """``(T, 3, S, S)``."""
    tile_slots: NDArray[np.int64]
    """``(T * K,)`` position of each visual token; L for those of blank tiles."""
    sample_ids: list[str]
    """Of the samples that it really holds."""
    modalities: NDArray[np.uint8]
    """``(samples,)``."""
    tokens: int
    """Tokens in use."""
    tiles: int
    """Tiles in use."""

    def trimmed(self) -> "MicroBatch":
        """Without padding and without blank tiles but one, for devices that gain by less work.

        An eager CPU need not keep shapes constant; at least one tile stays, so that the vision
        encoder is on the gradient's path.
        """
        length, tiles = max(self.tokens, 1), max(self.tiles, 1)
        per_tile = len(self.tile_slots) // max(len(self.pixel_values), 1)
        slots = self.tile_slots[: tiles * per_tile]
        return MicroBatch(
            **vars(self)
            | {
                "input_ids": self.input_ids[:length],
                "positions": self.positions[:length],
                "document_ids": self.document_ids[:length],
                "cu_seqlens": np.minimum(self.cu_seqlens, length).astype(np.int32),
                "pixel_values": self.pixel_values[:tiles],
                "tile_slots": np.minimum(slots, length),
            }
        )


@dataclass(kw_only=True)
class PackSample:
    """A processed sample and what the plan says of it."""

    sample_id: str
    """Stable id."""
    sample: ProcessedSample
    """Ids, mask and tiles."""
    tokens: int
    """Planned length."""
    tiles: int
    """Planned tiles."""
    modality: int
    """Index into ``plan.samples.MODALITIES``."""


def assemble(
    samples: list[PackSample],
    capacity: Capacity,
    *,
    tile_size: int,
    tokens_per_tile: int,
    image_token_id: int,
    pad_token_id: int,
    loss_weight: LossWeight,
) -> MicroBatch:
    """Lay samples one behind the other and fill the rest.

    Args:
        samples: At most ``capacity.documents``; within the capacity together.
        capacity: Shapes of the result.
        tile_size: S.
        tokens_per_tile: K.
        image_token_id: Id of ``<image>``.
        pad_token_id: Id of the filler.
        loss_weight: ``token``: each supervised token counts 1; ``sample``: each sample counts 1;
            ``sqrt``: a sample counts the square root of its supervised tokens.

    Raises:
        DataError: A sample has another length than planned; its geometry is stale.
    """
    for each in samples:
        _check_length(each)
    lengths = [len(each.sample.input_ids) for each in samples]
    used, tiles = sum(lengths), sum(len(each.sample.tiles) for each in samples)
    slots = capacity.tokens
    input_ids = np.full(slots, pad_token_id, dtype=np.int64)
    positions = np.zeros(slots, dtype=np.int64)
    document_ids = np.full(slots, capacity.documents, dtype=np.int32)
    bounds = np.full(capacity.documents + 2, used, dtype=np.int32)
    bounds[-1] = slots
    pixels = np.full((capacity.tiles, 3, tile_size, tile_size), BLANK, dtype=np.uint8)
    targets_at, weights = [], []
    start, tile = 0, 0
    for number, (each, length) in enumerate(zip(samples, lengths, strict=True)):
        span = slice(start, start + length)
        input_ids[span] = each.sample.input_ids
        positions[span] = np.arange(length)
        document_ids[span] = number
        bounds[number] = start
        pixels[tile : tile + len(each.sample.tiles)] = each.sample.tiles
        # The first token of a document is predicted from nothing, so it is never a target.
        supervised = np.flatnonzero(each.sample.supervised[1:]) + 1
        targets_at.append(start + supervised)
        weights.append(np.full(len(supervised), _weight(loss_weight, len(supervised)), np.float32))
        start, tile = start + length, tile + len(each.sample.tiles)
    positions[used:] = np.arange(slots - used)
    tile_slots = np.full(capacity.tiles * tokens_per_tile, slots, dtype=np.int64)
    tile_slots[: tiles * tokens_per_tile] = np.flatnonzero(input_ids == image_token_id)
    at = np.concatenate([np.zeros(0, dtype=np.int64), *targets_at])
    return MicroBatch(
        input_ids=input_ids,
        positions=positions,
        document_ids=document_ids,
        cu_seqlens=bounds,
        loss_positions=_chunks(at - 1),
        loss_targets=_chunks(input_ids[at]),
        loss_weights=_chunks(np.concatenate([np.zeros(0, np.float32), *weights])),
        pixel_values=pixels,
        tile_slots=tile_slots,
        sample_ids=[each.sample_id for each in samples],
        modalities=np.array([each.modality for each in samples], dtype=np.uint8),
        tokens=used,
        tiles=tiles,
    )


def _check_length(each: PackSample) -> None:
    found = (len(each.sample.input_ids), len(each.sample.tiles))
    if found != (each.tokens, each.tiles):
        raise DataError(
            f"sample {each.sample_id!r} has {found[0]} tokens and {found[1]} tiles, but the plan "
            f"expected {each.tokens} and {each.tiles}; its prepared geometry belongs to other data "
            f"or code, run: smolvlm2 prepare"
        )


def _weight(kind: LossWeight, supervised: int) -> float:
    if kind == "token" or not supervised:
        return 1.0
    return 1 / supervised if kind == "sample" else supervised**-0.5


def _chunks(values: NDArray) -> NDArray:
    chunks = max(1, -(-len(values) // CHUNK))
    return np.pad(values, (0, chunks * CHUNK - len(values))).reshape(chunks, CHUNK)
