"""Processes that share an evaluation: who takes what, and bringing the answers together."""

import os
from collections.abc import Sequence
from dataclasses import dataclass

from smolvlm2.evaluation.answers import Answer


@dataclass(frozen=True)
class Ranks:
    """This process among those that evaluate together."""

    rank: int = 0
    """Number of this process."""
    world: int = 1
    """Number of processes."""

    def gather(self, answers: Sequence[Answer]) -> list[Answer]:
        """The answers of all ranks, on every rank; waits for all of them."""
        if self.world == 1:
            return list(answers)
        import torch.distributed as dist

        gathered: list[list[Answer]] = [[] for _ in range(self.world)]
        dist.all_gather_object(gathered, list(answers))
        return [answer for part in gathered for answer in part]

    def total(self, value: int) -> int:
        """Sum over all ranks, on every rank."""
        if self.world == 1:
            return value
        import torch.distributed as dist

        gathered = [0] * self.world
        dist.all_gather_object(gathered, value)
        return sum(gathered)


ONE_RANK = Ranks()


def launched_ranks() -> Ranks:
    """The ranks of a launcher (``torchrun``, ``accelerate launch``), joined; one without any."""
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world == 1:
        return ONE_RANK
    import torch.distributed as dist

    if not dist.is_initialized():
        dist.init_process_group("gloo")  # answers are Python objects; no tensor goes over it
    return Ranks(dist.get_rank(), dist.get_world_size())
