"""What an optimiser step reads: where loading and training meet."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from smolvlm2.loading.micro_batch import MicroBatch
from smolvlm2.plan.plan import Position

if TYPE_CHECKING:
    # Reading samples needs packages that a step on generated ones does without.
    from smolvlm2.loading.reader import Skip


@dataclass(kw_only=True)
class StepBatch:
    """Everything that one optimiser step reads; valid until the next one is asked for."""

    packs: list[MicroBatch]
    """K packs."""
    position: Position
    """Where the next step begins."""
    skips: list["Skip"] = field(default_factory=list)
    """Samples that could not be read."""
    on_release: Callable[[int], None] | None = None
    """Called with the number of a pack that is not needed any more."""

    def release(self, number: int) -> None:
        """Give a pack's memory back early, so that the next step's packs are read meanwhile.

        Args:
            number: Of the pack; its arrays must not be looked at any more.
        """
        if self.on_release is not None:
            self.on_release(number)
