"""Packing one window of samples into packs of fixed capacity that weigh alike."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from smolvlm2.errors import ConfigError, PlanError
from smolvlm2.plan.balance import UNIT, Exchange, spread
from smolvlm2.plan.best_fit import best_fit
from smolvlm2.plan.samples import Samples

FILLS = (0.995, 0.975)
"""Mean fills that are tried, one after another, before samples are packed as tightly as can be."""
ROUNDS = 40
"""Rounds of exchange between packs; twice as many gain less than 0.1 % of a step."""
EARLY_ROUNDS = 8
"""Rounds after which the excess shows whether the others can help."""
HOPELESS = 0.01
"""Mean excess over capacity after the exchange that says that samples are too large for it."""
TIGHT_ROUNDS = 12
"""Rounds between packs that were filled as tightly as can be: slower, and there is less to gain."""
UNEVEN = 1.03
"""Cost of the costliest pack over the mean above which costs are given more weight."""
EMPHASIS = 3
"""That weight, against tokens and tiles."""
COSTLY_SHARE = 0.001
"""Samples that may cost more than the default capacity is made for."""
COSTLY_PART = 2
"""Mean cost of a pack of the default capacity, at least so many times that of a costly sample."""


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
    squared: int = 0
    """Sum of the squared lengths of its samples, in tokens squared: what attention costs."""


def capacity_for(
    settings: PackSettings,
    *,
    samples_per_pack: int,
    tokens: NDArray[np.int64],
    tiles: NDArray[np.int64],
    costs: NDArray[np.int64] | None = None,
    largest_tokens: int = 0,
    largest_tiles: int = 0,
) -> Capacity:
    """Resolve a pack's capacity.

    Args:
        settings: Numbers of the recipe, or None for the default.
        samples_per_pack: Mean samples that a pack should hold (``per_device_train_batch_size``).
        tokens: Tokens of a fair draw of samples from the mixture.
        tiles: Tiles of the same samples.
        costs: ``(n, m)`` their costs, in any units, in m situations.
        largest_tokens: Of all samples that the recipe admits.
        largest_tiles: Likewise.

    Returns:
        The default is ``samples_per_pack`` mean samples, or more until such a pack costs
        `COSTLY_PART` times what all samples but a few (`COSTLY_SHARE`) cost alone: no pack can be
        made like one that a single sample overfills. It is raised to the largest sample.
    """
    wanted = float(samples_per_pack)
    for column in costs.T if costs is not None else ():
        costly = np.sort(column)[int((len(column) - 1) * (1 - COSTLY_SHARE))]
        wanted = max(wanted, COSTLY_PART * int(costly) * len(column) / max(int(column.sum()), 1))

    def resolve(given: int | None, values: NDArray[np.int64], largest: int) -> int:
        if given is not None:
            return given
        # Exact: a sum of integers, one product, one division.
        mean = np.ceil(wanted * int(values.sum()) / len(values))
        return int(max(mean, largest, values.max(), 1))

    return Capacity(
        tokens=resolve(settings.tokens, tokens, largest_tokens),
        tiles=resolve(settings.tiles, tiles, largest_tiles),
        documents=settings.documents,
    )


def pack_window(
    tokens: NDArray[np.int64],
    tiles: NDArray[np.int64],
    capacity: Capacity,
    costs: NDArray[np.int64] | None = None,
) -> list[NDArray[np.int64]]:
    """Share a window out among as few packs as hold it, alike in tokens, tiles and costs.

    Args:
        tokens: ``(n,)`` tokens of each sample.
        tiles: ``(n,)`` tiles of each sample.
        capacity: Of a pack.
        costs: ``(n, m)`` what else is to be alike, such as the cost with a frozen encoder and
            without; in any units.

    Returns:
        For each pack the places of its samples in the window, ascending.

    Raises:
        PlanError: A sample is larger than a pack.
    """
    if not len(tokens):
        return []
    for name, values, room in (
        ("tokens", tokens, capacity.tokens),
        ("tiles", tiles, capacity.tiles),
    ):
        if values.max() > room:
            raise PlanError(
                f"a sample has {values.max()} {name} and a pack holds {room}; raise pack.{name} "
                f"or lower the recipe's limits"
            )
    if costs is None:
        costs = np.zeros((len(tokens), 0), dtype=np.int64)
    for fill in FILLS:
        least = max(
            int(tokens.sum()) / capacity.tokens / fill,
            int(tiles.sum()) / capacity.tiles / fill,
            len(tokens) / capacity.documents,
        )
        packs = int(np.ceil(least))
        exchange = _share_out(packs, tokens, tiles, costs, capacity)
        if exchange.excess() > HOPELESS:
            break
        if exchange.repair():
            return exchange.packs()
    pack_of = best_fit(
        tokens,
        tiles,
        most_tokens=capacity.tokens,
        most_tiles=capacity.tiles,
        documents=capacity.documents,
    )
    packs = int(pack_of.max()) + 1
    measures, limits = _measures(packs, tokens, tiles, costs, capacity)
    exchange = Exchange(pack_of, packs, measures, limits, documents=capacity.documents)
    exchange.level(TIGHT_ROUNDS, capacity=True)
    return exchange.packs()


def _share_out(
    packs: int,
    tokens: NDArray[np.int64],
    tiles: NDArray[np.int64],
    costs: NDArray[np.int64],
    capacity: Capacity,
) -> Exchange:
    measures, limits = _measures(packs, tokens, tiles, costs, capacity)
    weight = measures[:, 2:].max(axis=1) if costs.shape[1] else measures.sum(axis=1)
    pack_of = spread(packs, weight, tiles, tokens, documents=capacity.documents)
    exchange = Exchange(pack_of, packs, measures, limits, documents=capacity.documents)
    exchange.level(EARLY_ROUNDS)
    if exchange.excess() > 2 * HOPELESS:
        return exchange  # all further rounds lower it by less than a half
    exchange.level(ROUNDS, start=EARLY_ROUNDS)
    cost = exchange.load[:, 2:]
    if exchange.excess() <= HOPELESS and (cost.max(axis=0) > cost.mean(axis=0) * UNEVEN).any():
        # Documents of very different length: attention makes packs of equal fill unequal.
        exchange.emphasise(EMPHASIS)
        exchange.level(ROUNDS)
    return exchange


def _measures(
    packs: int,
    tokens: NDArray[np.int64],
    tiles: NDArray[np.int64],
    costs: NDArray[np.int64],
    capacity: Capacity,
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Tokens, tiles and costs in units of a pack, and the limits of the first two."""
    rooms = np.array([capacity.tokens, capacity.tiles])
    scales = np.maximum(UNIT // rooms, 1)
    per_pack = np.maximum(costs.sum(axis=0) // packs // UNIT, 1)
    filled = np.column_stack([tokens, tiles]) * scales
    return np.column_stack([filled, costs // per_pack]), rooms * scales
