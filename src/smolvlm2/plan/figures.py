"""How good a plan is: fill, waiting, spread, measured on some of its steps."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from smolvlm2.plan.cost import CostModel
from smolvlm2.plan.packs import Capacity
from smolvlm2.plan.plan import Plan, Position
from smolvlm2.plan.ranks import packs_of_ranks, useful_bound
from smolvlm2.plan.samples import MODALITIES

MEASURES = ("tiles", "tokens", "squared", "supervised")
"""Columns of `Steps.packs`."""


@dataclass(kw_only=True)
class Steps:
    """What some steps of a plan hold."""

    packs: NDArray[np.int64]
    """``(steps, K, 4)`` sums of each pack, see `MEASURES`."""
    samples: NDArray[np.int64]
    """``(steps, modalities)`` samples."""
    by_source: dict[str, NDArray]
    """``samples``, ``tiles``, ``tokens`` and weight in the ``loss`` of each source,
    ``(sources,)``."""
    loss: NDArray[np.float64]
    """``(modalities,)`` weight in the loss."""


@dataclass(kw_only=True, frozen=True)
class RankFigures:
    """How the ranks of a run would fare; all shares are between 0 and 1."""

    ranks: int
    """Devices."""
    bound: float
    """Most of the rank-time that can be useful, by the number of packs alone."""
    useful: float
    """Useful FLOPs over ranks x slowest rank, where a pack costs what it holds."""
    useful_full: float
    """The same where a pack's blank tiles and tokens are computed too, as with static shapes."""
    imbalance: float
    """Cost of the slowest rank over the mean, 95th percentile over steps."""


def read_steps(
    plan: Plan,
    count: int,
    position: Position | None = None,
    *,
    weigh: Callable[[NDArray[np.int64]], NDArray] = np.asarray,
) -> Steps:
    """Plan some steps and sum up what they hold.

    Args:
        plan: To look at.
        count: Steps; fewer where the plan ends, whose short last step is left out.
        position: Where to begin.
        weigh: Gives the weight in the loss of samples by their supervised tokens; default: these.
    """
    position = position or Position()
    packs: list[list[list[int]]] = []
    samples = []
    names = ("tiles", "tokens")
    by_source: dict[str, NDArray]
    by_source = {name: np.zeros(len(plan.tables), np.int64) for name in ("samples", *names)}
    by_source["loss"], loss = np.zeros(len(plan.tables)), np.zeros(len(MODALITIES))
    while len(packs) < count and (plan.windows is None or position.window < plan.windows):
        step, position = plan.step(position)
        if len(step) < plan.packs_per_step:
            break
        packs.append([[getattr(pack, name) for name in MEASURES] for pack in step])
        counts = np.zeros(len(MODALITIES), dtype=np.int64)
        for pack in step:
            columns = pack.samples.columns(plan.tables, (*names, "supervised", "modality"))
            counts += np.bincount(columns["modality"], minlength=len(MODALITIES))
            by_source["samples"] += np.bincount(pack.samples.source, minlength=len(plan.tables))
            columns["loss"] = weigh(columns["supervised"])
            np.add.at(loss, columns["modality"], columns["loss"])
            for name in (*names, "loss"):
                np.add.at(by_source[name], pack.samples.source, columns[name])
        samples.append(counts)
    return Steps(
        packs=np.array(packs, dtype=np.int64).reshape(len(packs), -1, len(MEASURES)),
        samples=np.array(samples, dtype=np.int64).reshape(len(packs), len(MODALITIES)),
        by_source=by_source,
        loss=loss,
    )


def rank_figures(
    packs: NDArray[np.int64], cost: CostModel, capacity: Capacity, *, ranks: int, frozen: bool
) -> RankFigures:
    """Deal each step's packs to ranks and see who waits.

    Args:
        packs: As `Steps.packs`, at least one step.
        cost: What they cost.
        capacity: What blank tiles and tokens fill up.
        ranks: Devices.
        frozen: Whether the vision encoder is.
    """
    tiles, tokens, squared, supervised = np.moveaxis(packs, 2, 0)
    held = cost.cost(tiles, tokens, squared, supervised, frozen=frozen)
    full = cost.cost(
        np.full_like(tiles, capacity.tiles),
        np.full_like(tokens, capacity.tokens),
        squared,
        supervised,
        frozen=frozen,
    )
    rounds = -(-packs.shape[1] // ranks)
    on_rank = np.zeros((len(packs), ranks), dtype=np.int64)
    on_full = np.zeros_like(on_rank)
    blank = int(cost.cost(*(np.array(v) for v in _blank(capacity)), frozen=frozen))
    for step, costs in enumerate(held.tolist()):
        for rank, chosen in enumerate(packs_of_ranks(costs, ranks)):
            real = [pack for pack in chosen if pack is not None]
            on_rank[step, rank] = held[step, real].sum()
            on_full[step, rank] = full[step, real].sum() + (rounds - len(real)) * blank
    useful = float(held.sum())
    slowest = on_rank.max(axis=1)
    return RankFigures(
        ranks=ranks,
        bound=useful_bound(packs.shape[1], ranks),
        useful=useful / float(ranks * slowest.sum()),
        useful_full=useful / float(ranks * on_full.max(axis=1).sum()),
        imbalance=float(np.quantile(slowest / on_rank.mean(axis=1), 0.95)),
    )


def _blank(capacity: Capacity) -> tuple[int, int, int, int]:
    return capacity.tiles, capacity.tokens, 0, 0


def fill(packs: NDArray[np.int64], capacity: Capacity) -> tuple[float, float]:
    """Shares of the packs' tiles and tokens that are in use."""
    tiles, tokens = packs[..., 0].mean(), packs[..., 1].mean()
    return float(tiles / capacity.tiles), float(tokens / capacity.tokens)


def spread(samples: NDArray[np.int64]) -> dict[str, tuple[float, float]]:
    """Mean share of each modality, and how its steps spread against independent draws.

    Args:
        samples: As `Steps.samples`.

    Returns:
        For each modality that occurs its share, and the standard deviation of its share over
        steps as a multiple of what steps of as many independently drawn samples would have.
    """
    sizes = samples.sum(axis=1)
    found = {}
    for name, counts in zip(MODALITIES, samples.T, strict=True):
        share = counts.sum() / max(sizes.sum(), 1)
        if share:
            drawn = np.sqrt(share * (1 - share) / sizes.mean())
            found[name] = float(share), float((counts / sizes).std() / drawn) if drawn else 0.0
    return found
