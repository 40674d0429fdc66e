"""Which rank computes which packs of a step, and what that leaves idle."""

from collections.abc import Sequence

from smolvlm2.errors import PlanError

LEAST_USEFUL = 0.9
"""Below this bound on the useful share of a step's time there is a warning."""


def packs_of_ranks(costs: Sequence[int], ranks: int) -> list[list[int | None]]:
    """Deal a step's packs to ranks: costliest first, pack j to rank j mod R.

    Ranks that run their packs in this order work on packs of nearly equal cost at any time.

    Args:
        costs: Of each pack of the step.
        ranks: R.

    Returns:
        For each rank the numbers of its packs; all have equally many, None is a blank pack.
    """
    rounds = -(-len(costs) // ranks)
    order = sorted(range(len(costs)), key=lambda pack: (-costs[pack], pack))
    shares: list[list[int | None]] = [[None] * rounds for _ in range(ranks)]
    for place, pack in enumerate(order):
        number, rank = divmod(place, ranks)
        shares[rank][number] = pack
    return shares


def useful_bound(packs_per_step: int, ranks: int) -> float:
    """Most of a step's rank-time that can be useful: K / (R ceil(K / R))."""
    return packs_per_step / (ranks * -(-packs_per_step // ranks))


def check_ranks(packs_per_step: int, ranks: int) -> str | None:
    """Judge a number of ranks.

    Returns:
        A warning, or None where there is nothing to say.

    Raises:
        PlanError: Ranks would have no pack at all.
    """
    if ranks > packs_per_step:
        raise PlanError(
            f"{ranks} ranks for {_count(packs_per_step, 'pack')} a step: "
            f"{ranks - packs_per_step} would never have work; use at most "
            f"{_count(packs_per_step, 'rank')}, or a smaller --batch-size, which makes more and "
            f"smaller packs of the same samples"
        )
    bound = useful_bound(packs_per_step, ranks)
    if bound >= LEAST_USEFUL:
        return None
    fitting = [count for count in range(1, ranks + 1) if packs_per_step % count == 0]
    return (
        f"{packs_per_step} packs a step on {ranks} ranks leave {1 - bound:.0%} of their time "
        f"idle; {_count(fitting[-1], 'rank')} would leave none, and so would another --batch-size "
        f"with which the packs of a step are a multiple of {ranks}"
    )


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
