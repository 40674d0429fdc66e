"""Packs of generated samples: random tiles and ids of given lengths, to measure and to dry-run.

NumPy only, so that a machine with torch alone can use it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from smolvlm2.model.config import SmolVLMConfig

CHUNK = 512
"""Supervised positions of a row of the loss arrays, as the loader lays them out."""


@dataclass(kw_only=True)
class GeneratedSample:
    """Lengths of a sample."""

    tokens: int
    """All, visual tokens included."""
    tiles: int
    """Tiles, their visual tokens first in the sample."""
    supervised: int
    """Tokens with loss, the last ones."""


@dataclass(kw_only=True)
class GeneratedIds:
    """What a generated sample holds."""

    input_ids: NDArray[np.int64]
    """``(L,)``."""
    pixel_values: NDArray[np.uint8]
    """``(T, 3, S, S)``."""
    supervised: int
    """Tokens with loss, the last ones."""


def generate(config: SmolVLMConfig, sample: GeneratedSample, *, seed: int) -> GeneratedIds:
    """Random text behind random tiles.

    Args:
        config: For ids and shapes.
        sample: Its lengths; tokens at least one more than visual and supervised ones together.
        seed: Of ids and pixels.

    Raises:
        ValueError: The lengths contradict each other.
    """
    visual = sample.tiles * config.tokens_per_tile
    if sample.tokens <= visual + sample.supervised:
        raise ValueError(
            f"a sample of {sample.tokens} tokens cannot hold {visual} visual and "
            f"{sample.supervised} supervised ones, and one before them"
        )
    draw = np.random.default_rng(seed)
    # Ids below the added tokens, so that none is taken for a picture.
    ids = draw.integers(3, min(config.text.vocab_size, config.image_token_id), sample.tokens)
    ids[:visual] = config.image_token_id
    side = config.vision.image_size
    pixels = draw.integers(0, 256, (sample.tiles, 3, side, side), dtype=np.uint8)
    return GeneratedIds(input_ids=ids, pixel_values=pixels, supervised=sample.supervised)


def lay_out(
    config: SmolVLMConfig, samples: Sequence[GeneratedIds], *, tokens: int, tiles: int
) -> dict[str, np.ndarray]:
    """The arrays that the model reads, for a pack of these samples.

    Args:
        config: Of the model.
        samples: In order.
        tokens: L, the pack's capacity.
        tiles: T, the pack's capacity.

    Returns:
        By the names of `loading.micro_batch.MicroBatch`, of the same shapes.
    """
    lengths = np.array([len(sample.input_ids) for sample in samples])
    used, side = int(lengths.sum()), config.vision.image_size
    bounds = np.concatenate([[0], lengths.cumsum(), [tokens]]).astype(np.int32)
    spans = np.diff(bounds)
    starts = np.repeat(bounds[:-1], spans)
    ids = np.full(tokens, config.pad_token_id, dtype=np.int64)
    ids[:used] = np.concatenate([sample.input_ids for sample in samples])
    pixels = np.full((tiles, 3, side, side), 128, dtype=np.uint8)
    real = np.concatenate([sample.pixel_values for sample in samples])
    pixels[: len(real)] = real
    slots = np.full(tiles * config.tokens_per_tile, tokens, dtype=np.int64)
    visual = np.flatnonzero(ids == config.image_token_id)
    slots[: len(visual)] = visual
    targets = np.concatenate(
        [
            end - np.arange(sample.supervised, 0, -1)
            for sample, end in zip(samples, bounds[1:], strict=False)
        ]
    ).astype(np.int64)
    filler = -len(targets) % CHUNK
    weights = np.concatenate([np.ones(len(targets)), np.zeros(filler)]).astype(np.float32)
    targets = np.concatenate([targets, np.ones(filler, dtype=np.int64)])
    return {
        "input_ids": ids,
        "positions": np.arange(tokens) - starts,
        "document_ids": np.repeat(np.arange(len(spans), dtype=np.int32), spans),
        "cu_seqlens": bounds,
        "loss_positions": (targets - 1).reshape(-1, CHUNK),
        "loss_targets": ids[targets].reshape(-1, CHUNK),
        "loss_weights": weights.reshape(-1, CHUNK),
        "pixel_values": pixels,
        "tile_slots": slots,
    }
