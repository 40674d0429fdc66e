"""Processes that share an evaluation: who takes what, and bringing the answers together."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from smolvlm2.evaluation.answers import Answer

WAIT = timedelta(days=7)
"""Longest wait for the slowest rank's answers; torch's own is half an hour."""


@dataclass(frozen=True)
class Ranks:
    """This process among those that evaluate together."""

    rank: int = 0
    """Number of this process."""
    world: int = 1
    """Number of processes."""
    exchange: Callable[[Any], list[Any]] | None = None
    """Brings every rank's value to every rank, by rank; None: torch's default group does."""

    def gather(self, answers: Sequence[Answer]) -> list[Answer]:
        """The answers of all ranks, on every rank; waits for all of them."""
        return [answer for part in self._all(list(answers)) for answer in part]

    def total(self, value: int) -> int:
        """Sum over all ranks, on every rank."""
        return sum(self._all(value))

    def _all(self, value: Any) -> list[Any]:
        if self.world == 1:
            return [value]
        if self.exchange is not None:
            return self.exchange(value)
        import torch.distributed as dist

        gathered: list[Any] = [None] * self.world
        dist.all_gather_object(gathered, value)
        return gathered


ONE_RANK = Ranks()


def launched_ranks() -> Ranks:
    """The ranks of a launcher (``torchrun``, ``accelerate launch``), joined; one without any."""
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world == 1:
        return ONE_RANK
    import torch.distributed as dist

    if not dist.is_initialized():
        # Answers are Python objects; no tensor goes over it. After a killed run one rank may have
        # all of the rest to do, for hours; one that dies is the launcher's affair.
        dist.init_process_group("gloo", timeout=WAIT)
    return Ranks(dist.get_rank(), dist.get_world_size())
