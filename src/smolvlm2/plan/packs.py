"""Packing one window of samples into packs of fixed capacity, and the order they are dealt in."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from smolvlm2.errors import ConfigError, PlanError
from smolvlm2.plan.permutation import derive_key, permute
from smolvlm2.plan.samples import Samples


@dataclass(kw_only=True)
class PackSettings:
    """Capacity of a pack: a decision about memory, not about statistics."""

    tokens: int | None = None
    """Token slots; default: from ``per_device_train_batch_size`` and the mixture's mean sample."""
    tiles: int | None = None
    """Tile slots; default: likewise."""
    documents: int = 64
    """Most samples a pack holds."""
    window: int = 8192
    """Consecutive samples that are packed together; windows are independent of each other."""

    def __post_init__(self) -> None:
        for name in ("tokens", "tiles", "documents", "window"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"pack.{name} is {value}, expected at least 1")


@dataclass(kw_only=True, frozen=True)
class Capacity:
    """What fits in one pack."""

    tokens: int
    """Token slots."""
    tiles: int
    """Tile slots."""
    documents: int
    """Samples."""


@dataclass(kw_only=True)
class Pack:
    """One micro-batch: never split or changed once planned."""

    samples: Samples
    """The samples, in the order in which they lie in the pack."""
    tokens: int
    """Tokens in use."""
    tiles: int
    """Tiles in use."""
    supervised: int
    """Tokens with loss."""


def capacity_for(
    settings: PackSettings,
    *,
    samples_per_pack: int,
    tokens: NDArray[np.int64],
    tiles: NDArray[np.int64],
) -> Capacity:
    """Resolve a pack's capacity.

    Args:
        settings: Numbers of the recipe, or None for the default.
        samples_per_pack: Mean samples that a pack should hold (``per_device_train_batch_size``).
        tokens: Tokens of a fair draw of samples from the mixture.
        tiles: Tiles of the same samples.

    Returns:
        The default is ``samples_per_pack`` mean samples, raised to the largest sample.
    """

    def resolve(given: int | None, values: NDArray[np.int64]) -> int:
        if given is not None:
            return given
        return int(max(np.ceil(samples_per_pack * values.mean()), values.max(), 1))

    return Capacity(
        tokens=resolve(settings.tokens, tokens),
        tiles=resolve(settings.tiles, tiles),
        documents=settings.documents,
    )


def pack_window(
    tokens: NDArray[np.int64], tiles: NDArray[np.int64], capacity: Capacity
) -> list[NDArray[np.int64]]:
    """First-fit decreasing in two dimensions, text last and spread.

    Samples with tiles are placed from the largest (by the dimension they fill most) to the
    smallest, each in the first pack with room for its tiles, its tokens and one more document.
    Samples without tiles follow, each in the pack with most room for tokens: they fill what the
    tiles have left over, evenly, instead of making packs of 60 texts beside packs of two videos.

    Args:
        tokens: ``(n,)`` tokens of each sample.
        tiles: ``(n,)`` tiles of each sample.
        capacity: Of a pack.

    Returns:
        For each pack the places of its samples in the window, ascending.

    Raises:
        PlanError: A sample is larger than a pack.
    """
    for name, values, room in (
        ("tokens", tokens, capacity.tokens),
        ("tiles", tiles, capacity.tiles),
    ):
        if len(values) and values.max() > room:
            raise PlanError(
                f"a sample has {values.max()} {name} and a pack holds {room}; raise pack.{name} "
                f"or lower the recipe's limits"
            )
    size = np.maximum(tokens / capacity.tokens, tiles / capacity.tiles)
    # Room left in each open pack: at most as many packs as samples.
    room_tokens = np.full(len(tokens), capacity.tokens)
    room_tiles = np.full(len(tokens), capacity.tiles)
    room_documents = np.full(len(tokens), capacity.documents)
    pack_of = np.zeros(len(tokens), dtype=np.int64)
    opened = 0
    # Samples with tiles leave every pack its part of the text.
    least = max(tokens.sum() / capacity.tokens, tiles.sum() / capacity.tiles, 1)
    reserved = int(tokens[tiles == 0].sum() / least)
    for place in np.lexsort((np.arange(len(size)), -size, tiles == 0)):
        wanted = tokens[place] + (reserved if tiles[place] else 0)
        fits = (room_tokens[:opened] >= wanted) & (room_tiles[:opened] >= tiles[place])
        fits &= room_documents[:opened] > 0
        if not fits.any():
            chosen = opened
        elif tiles[place]:
            chosen = int(fits.argmax())
        else:
            chosen = int(np.where(fits, room_tokens[:opened], -1).argmax())
        opened = max(opened, chosen + 1)
        pack_of[place] = chosen
        room_tokens[chosen] -= tokens[place]
        room_tiles[chosen] -= tiles[place]
        room_documents[chosen] -= 1
    order = np.argsort(pack_of, kind="stable")
    bounds = np.searchsorted(pack_of[order], np.arange(1, opened))
    return list(np.split(order, bounds)) if opened else []


def deal(features: NDArray[np.float64], *, seed: int, window: int) -> NDArray[np.int64]:
    """The order in which a window's packs are taken, so that all steps look alike.

    Packs differ: one holds two videos, another 60 short texts. Each time the pack is taken that
    keeps the running sums of all features closest to a straight line; any run of consecutive packs
    then has nearly the window's mean features. Plain shuffling doubles the spread of a step's
    modality shares (``docs/decisions/005-plan.md``).

    Args:
        features: ``(n, m)`` sums over each pack, such as samples of each modality.
        seed: Of the plan.
        window: Number of the window.

    Returns:
        ``(n,)`` pack numbers in the order they are taken; the first is drawn by seed and window.
    """
    count = len(features)
    scale = features.std(axis=0)
    steps = (features - features.mean(axis=0)) / np.where(scale > 0, scale, 1)
    left = permute(np.arange(count), count, derive_key(seed, window))
    steps, total = steps[left], np.zeros(features.shape[1])
    order = np.empty(count, dtype=np.int64)
    for place in range(count):
        # The first pack is free: all windows of all seeds would begin with the most average one.
        chosen = int(((total + steps) ** 2).sum(axis=1).argmin()) if place else 0
        order[place], total = left[chosen], total + steps[chosen]
        left, steps = np.delete(left, chosen), np.delete(steps, chosen, axis=0)
    return order
