"""The packs of each step that one rank reads and computes."""

from dataclasses import replace

import numpy as np

from smolvlm2.plan.packs import Pack
from smolvlm2.plan.plan import Plan, Position
from smolvlm2.plan.ranks import packs_of_ranks


class RankShare:
    """A plan as one rank sees it; a loader reads it like the plan itself.

    Every rank has equally many packs a step. Where the packs run out it has a blank one: all ranks
    issue the same collectives, whatever their packs hold.

    Args:
        plan: Of all ranks.
        rank: This one.
        ranks: All.
    """

    def __init__(self, plan: Plan, *, rank: int, ranks: int) -> None:
        self.plan = plan
        self._rank, self._ranks = rank, ranks

    @property
    def packs_per_step(self) -> int:
        """Packs of this rank in a step, blank ones among them."""
        return -(-self.plan.packs_per_step // self._ranks)

    def step(self, position: Position) -> tuple[list[Pack], Position]:
        """This rank's packs of the step that begins at ``position``, and where the next begins."""
        packs, following = self.plan.step(position)
        blank = replace(
            packs[0],
            samples=packs[0].samples.take(np.zeros(0, dtype=np.int64)),
            tokens=0,
            tiles=0,
            supervised=0,
        )
        numbers = self._numbers(packs)
        return [blank if number is None else packs[number] for number in numbers], following

    def numbers(self, position: Position) -> list[int | None]:
        """Places in the whole step of the packs that `step` gives; None for blank ones."""
        return self._numbers(self.plan.step(position)[0])

    def _numbers(self, packs: list[Pack]) -> list[int | None]:
        # Tiles first: at this size the vision encoder is most of the work.
        capacity = self.plan.capacity
        costs = [pack.tiles * 4 * capacity.tokens // capacity.tiles + pack.tokens for pack in packs]
        return packs_of_ranks(costs, self._ranks)[self._rank]
