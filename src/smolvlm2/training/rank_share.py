"""The packs of each step that one rank reads and computes."""

import numpy as np

from smolvlm2.plan.packs import Pack
from smolvlm2.plan.plan import Position
from smolvlm2.plan.ranks import packs_of_ranks
from smolvlm2.plan.run_plan import RunPlan


class RankShare:
    """A plan as one rank sees it; a loader reads it like the plan itself.

    Every rank has equally many packs a step. Where the packs run out it has a blank one: all ranks
    issue the same collectives, whatever their packs hold.

    Args:
        plan: Of all ranks.
        rank: This one.
        ranks: All.
    """

    def __init__(self, plan: RunPlan, *, rank: int, ranks: int) -> None:
        self.plan = plan
        self._rank, self._ranks = rank, ranks
        self._dealt: dict[Position, list[int | None]] = {}

    @property
    def packs_per_step(self) -> int:
        """Packs of this rank in a step, blank ones among them."""
        return -(-self.plan.packs_per_step // self._ranks)

    def step(self, position: Position) -> tuple[list[Pack], Position]:
        """This rank's packs of the step that begins at ``position``, and where the next begins."""
        packs, following = self.plan.step(position)
        numbers = self._dealt[position] = self._deal(packs)
        return [_blank(packs[0]) if n is None else packs[n] for n in numbers], following

    def numbers(self, position: Position) -> list[int | None]:
        """Places in the whole step of the packs that `step` gave for it; None for blank ones."""
        return self._dealt.pop(position)

    def _deal(self, packs: list[Pack]) -> list[int | None]:
        columns = [
            np.array([getattr(pack, name) for pack in packs], dtype=np.int64)
            for name in ("tiles", "tokens", "squared", "supervised")
        ]
        # Always as if the encoder trained: the order by cost hardly differs while it is frozen.
        costs = self.plan.cost.cost(*columns, frozen=False)
        return packs_of_ranks(costs.tolist(), self._ranks)[self._rank]

    def __enter__(self) -> "RankShare":
        return self

    def __exit__(self, *exception: object) -> None:
        self.plan.close()


def _blank(pack: Pack) -> Pack:
    nothing = pack.samples.take(np.zeros(0, dtype=np.int64))
    return Pack(samples=nothing, tokens=0, tiles=0, supervised=0)
