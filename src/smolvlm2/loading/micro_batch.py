"""One pack as arrays of fixed shape: where plan, data, processing, model and training meet.

L token slots, T tile slots, K visual tokens of a tile, S side of a tile in pixels.
"""

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from smolvlm2.errors import DataError
from smolvlm2.plan.packs import Capacity

if TYPE_CHECKING:
    # Training reads packs on machines that have no package to read pictures with.
    from smolvlm2.processing.processor import ProcessedSample

BLANK = 127
"""Grey level of tile slots that hold no tile."""
CHUNK = 512
"""Columns of the loss arrays: supervised positions whose logits exist at one time."""

LossWeight = Literal["token", "sample", "sqrt"]
NO_SAMPLE = -1
"""In ``PackBuffers.state``: nothing is being read."""


@dataclass(kw_only=True, frozen=True)
class PackShape:
    """What fixes the shapes of a pack's arrays."""

    capacity: Capacity
    """Tokens, tiles and documents."""
    tile_size: int
    """S."""
    tokens_per_tile: int
    """K."""

    @property
    def arrays(self) -> dict[str, tuple[tuple[int, ...], type]]:
        """Shape and type of every array of `PackBuffers`."""
        tokens, tiles = self.capacity.tokens, self.capacity.tiles
        chunks = -(-tokens // CHUNK)
        return {
            "state": ((3,), np.int64),
            "input_ids": ((tokens,), np.int64),
            "positions": ((tokens,), np.int64),
            "document_ids": ((tokens,), np.int32),
            "cu_seqlens": ((self.capacity.documents + 2,), np.int32),
            "loss_positions": ((chunks, CHUNK), np.int64),
            "loss_targets": ((chunks, CHUNK), np.int64),
            "loss_weights": ((chunks, CHUNK), np.float32),
            "tile_slots": ((tiles * self.tokens_per_tile,), np.int64),
            "pixel_values": ((tiles, 3, self.tile_size, self.tile_size), np.uint8),
        }


@dataclass(kw_only=True)
class PackBuffers:
    """Memory for the arrays of one pack, used for one pack after the other.

    The arrays are those of `MicroBatch` at full size, and ``state``: which sample is being read,
    since when, and how many tiles are not grey.
    """

    shape: PackShape
    state: NDArray[np.int64]
    input_ids: NDArray[np.int64]
    positions: NDArray[np.int64]
    document_ids: NDArray[np.int32]
    cu_seqlens: NDArray[np.int32]
    loss_positions: NDArray[np.int64]
    loss_targets: NDArray[np.int64]
    loss_weights: NDArray[np.float32]
    tile_slots: NDArray[np.int64]
    pixel_values: NDArray[np.uint8]

    @classmethod
    def allocate(cls, shape: PackShape) -> "PackBuffers":
        """Buffers of this process alone."""
        arrays: dict[str, Any] = {
            name: np.empty(extent, dtype=dtype) for name, (extent, dtype) in shape.arrays.items()
        }
        buffers = cls(shape=shape, **arrays)
        buffers.forget()
        return buffers

    def forget(self) -> None:
        """Make no assumption about what the memory holds."""
        self.state[:] = NO_SAMPLE, 0, self.shape.capacity.tiles

    def begin_sample(self, number: int, *, first_tile: int, tiles: int) -> None:
        """Say, for whoever watches, that a sample is being read; its tiles may be written.

        Args:
            number: Place of the sample in the pack.
            first_tile: Where its tiles begin.
            tiles: How many it has.
        """
        self.state[2] = max(self.state[2], first_tile + tiles)
        # The clock is common to all processes of a machine.
        self.restart_clock()
        self.state[0] = number

    def restart_clock(self) -> None:
        """The sample that is being read begins now."""
        self.state[1] = time.monotonic_ns()

    def end_samples(self) -> None:
        """Nothing is being read any more."""
        self.state[0] = NO_SAMPLE

    def reading(self) -> tuple[int, float]:
        """Place of the sample that is being read, or `NO_SAMPLE`; and seconds since it began."""
        number, started = int(self.state[0]), int(self.state[1])
        return number, (time.monotonic_ns() - started) / 1e9

    def blank_from(self, first: int) -> None:
        """Make the tiles from ``first`` on grey, where they are not."""
        self.pixel_values[first : int(self.state[2])] = BLANK
        self.state[2] = first


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

    def copy(self) -> "MicroBatch":
        """One that stays when the loader uses the memory again."""
        return MicroBatch(
            **{
                name: value.copy() if isinstance(value, np.ndarray) else value
                for name, value in vars(self).items()
            }
        )

    def detach(self) -> None:
        """Take the arrays away: their memory is used for another pack from now on."""
        for name, value in list(vars(self).items()):
            if isinstance(value, np.ndarray):
                delattr(self, name)

    def trimmed(self) -> "MicroBatch":
        """Without padding and without blank tiles but one, for devices that gain by less work.

        An eager CPU need not keep shapes constant; at least one tile stays, so that the vision
        encoder is on the gradient's path. Supervised positions are spread evenly over their chunks,
        so that fillers, whose logits would cost as much, are fewer than chunks.
        """
        length, tiles = max(self.tokens, 1), max(self.tiles, 1)
        per_tile = len(self.tile_slots) // max(len(self.pixel_values), 1)
        slots = self.tile_slots[: tiles * per_tile]
        supervised = max(int(np.count_nonzero(self.loss_weights)), 1)
        rows = -(-supervised // self.loss_weights.shape[1])
        columns = -(-supervised // rows)
        loss = ("loss_positions", "loss_targets", "loss_weights")
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
            | {
                name: getattr(self, name).reshape(-1)[: rows * columns].reshape(rows, columns)
                for name in loss
            }
        )


@dataclass(kw_only=True)
class PackSample:
    """A processed sample and what the plan says of it."""

    sample_id: str
    """Stable id."""
    sample: "ProcessedSample"
    """Ids, mask and tiles."""
    tokens: int
    """Planned length."""
    tiles: int
    """Planned tiles."""
    modality: int
    """Index into ``plan.samples.MODALITIES``."""


@dataclass(frozen=True)
class PackFacts:
    """What a worker says of a pack that it laid into shared buffers."""

    sample_ids: list[str]
    """Of the samples that it holds."""
    modalities: bytes
    """One a sample."""
    tokens: int
    """Tokens in use."""
    tiles: int
    """Tiles in use."""
    chunks: int
    """Rows of the loss arrays in use."""

    def batch(self, buffers: PackBuffers) -> MicroBatch:
        """The pack as views of its buffers."""
        return MicroBatch(
            input_ids=buffers.input_ids,
            positions=buffers.positions,
            document_ids=buffers.document_ids,
            cu_seqlens=buffers.cu_seqlens,
            loss_positions=buffers.loss_positions[: self.chunks],
            loss_targets=buffers.loss_targets[: self.chunks],
            loss_weights=buffers.loss_weights[: self.chunks],
            pixel_values=buffers.pixel_values,
            tile_slots=buffers.tile_slots,
            sample_ids=self.sample_ids,
            modalities=np.frombuffer(self.modalities, dtype=np.uint8),
            tokens=self.tokens,
            tiles=self.tiles,
        )


def assemble(
    samples: list[PackSample],
    buffers: PackBuffers,
    *,
    image_token_id: int,
    pad_token_id: int,
    loss_weight: LossWeight,
) -> PackFacts:
    """Lay samples one behind the other and fill the rest.

    Args:
        samples: Within the capacity together. Tiles that lie in the buffers where they belong are
            not copied.
        buffers: Where the pack goes; every entry is written.
        image_token_id: Id of ``<image>``.
        pad_token_id: Id of the filler.
        loss_weight: ``token``: each supervised token counts 1; ``sample``: each sample counts 1;
            ``sqrt``: a sample counts the square root of its supervised tokens.

    Raises:
        DataError: A sample has another length than planned; its geometry is stale.
    """
    for each in samples:
        _check_length(each)
    slots = buffers.shape.capacity.tokens
    targets_at, weights = [], []
    start, tile = 0, 0
    for number, each in enumerate(samples):
        length, tiles = len(each.sample.input_ids), len(each.sample.tiles)
        span = slice(start, start + length)
        buffers.input_ids[span] = each.sample.input_ids
        buffers.positions[span] = np.arange(length)
        buffers.document_ids[span] = number
        buffers.cu_seqlens[number] = start
        place = buffers.pixel_values[tile : tile + tiles]
        if place.ctypes.data != each.sample.tiles.ctypes.data:
            place[:] = each.sample.tiles
        # The first token of a document is predicted from nothing, so it is never a target.
        supervised = np.flatnonzero(each.sample.supervised[1:]) + 1
        targets_at.append(start + supervised)
        weights.append(np.full(len(supervised), _weight(loss_weight, len(supervised)), np.float32))
        start, tile = start + length, tile + tiles
    buffers.input_ids[start:] = pad_token_id
    buffers.positions[start:] = np.arange(slots - start)
    buffers.document_ids[start:] = buffers.shape.capacity.documents
    buffers.cu_seqlens[len(samples) :] = start
    buffers.cu_seqlens[-1] = slots
    buffers.blank_from(tile)
    visual = tile * buffers.shape.tokens_per_tile
    buffers.tile_slots[:visual] = np.flatnonzero(buffers.input_ids == image_token_id)
    buffers.tile_slots[visual:] = slots
    at = np.concatenate([np.zeros(0, dtype=np.int64), *targets_at])
    chunks = _lay_out(at - 1, buffers.loss_positions)
    _lay_out(buffers.input_ids[at], buffers.loss_targets)
    _lay_out(np.concatenate([np.zeros(0, np.float32), *weights]), buffers.loss_weights)
    return PackFacts(
        sample_ids=[each.sample_id for each in samples],
        modalities=bytes(each.modality for each in samples),
        tokens=start,
        tiles=tile,
        chunks=chunks,
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


def sample_weights(kind: LossWeight, supervised: NDArray[np.int64]) -> NDArray:
    """What samples with so many supervised tokens count in a step's loss, each as a whole."""
    if kind == "token":
        return supervised
    return np.minimum(supervised, 1) if kind == "sample" else np.sqrt(supervised)


def _lay_out(values: NDArray, rows: NDArray) -> int:
    """Write values into the first rows and zeros behind them; returns the rows in use."""
    chunks = max(1, -(-len(values) // CHUNK))
    used = rows[:chunks].reshape(-1)
    used[: len(values)] = values
    used[len(values) :] = 0
    return chunks
