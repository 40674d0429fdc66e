"""Work between steps that all ranks share, and that may fail on one of them without a hang."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

from smolvlm2.errors import TrainingError
from smolvlm2.training.distributed import World

T = TypeVar("T")


@dataclass(kw_only=True)
class SharedWork:
    """Exchanges of ranks that work on something together, and the end of it.

    A rank that fails says so in place of its next word; whoever waits for that word fails too, and
    all of them meet there. So ranks need not fail at the same place.
    """

    world: World
    """All ranks."""
    at: str = ""
    """Where in the run, for messages."""
    _failures: list[str] | None = field(default=None, init=False)

    @property
    def rank(self) -> int:
        """This one."""
        return self.world.rank

    @property
    def size(self) -> int:
        """All."""
        return self.world.size

    def gather(self, value: T) -> list[T]:
        """Every rank's value, by rank; waits as long as it takes.

        Raises:
            TrainingError: Another rank failed.
        """
        told = self.world.gather_late((False, value), at=self.at)
        if any(ended for ended, _ in told):
            self._failures = [str(failure or "ended early") for ended, failure in told if ended]
            raise TrainingError(f"{self.at}: another rank failed: {self._failures[0]}")
        return [each for _, each in told]

    def run(self, work: Callable[[], T], *, at: str) -> tuple[T | None, str | None]:
        """Do ``work`` on every rank.

        Returns:
            What it gave on this rank, and what went wrong on any of them: the same for all.
        """
        self.at, self._failures = at, None
        result, failure = None, None
        try:
            result = work()
        except Exception as error:
            # The run is worth more than whatever was to be found out about it.
            failure = f"{type(error).__name__}: {error}"
        if self._failures is None:
            told: list[Any] = self.world.gather_late((True, failure), at=at)
            self._failures = [each for ended, each in told if ended and each is not None]
        if self._failures:
            return None, self._failures[0]
        return result, None
