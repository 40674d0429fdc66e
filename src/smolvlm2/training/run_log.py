"""What a run writes down while it goes: its log and its skips, by rank 0."""

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from smolvlm2.errors import SmolVLMError, TrainingError
from smolvlm2.loading.reader import Skip
from smolvlm2.training.distributed import World
from smolvlm2.training.recipe import Recipe
from smolvlm2.training.run_folder import During, RunFolder
from smolvlm2.training.writers import Writers

logger = logging.getLogger(__name__)


@dataclass(kw_only=True)
class RunLog:
    """The files that grow by a line a step."""

    run: RunFolder
    """Where they are."""
    world: World
    """Its rank 0 writes."""
    trouble: SmolVLMError | None = field(default=None, init=False)
    """Why a file could not be written; the ranks stop at the next step."""
    _sent: int | None = field(default=None, init=False)
    _writers: Writers | None = field(default=None, init=False)

    def rewind(self, step: int) -> None:
        """Drop what the log says of ``step`` and later ones: they are computed again."""
        steps = [line["step"] for line in self.run.log]
        self._sent = max(steps, default=None)
        self.run.log.cut(step)
        self.run.skips.mend()
        self.run.forget_fatal_skips(step)

    @contextmanager
    def writing(self, recipe: Recipe, step: int) -> Iterator[None]:
        """Let the recipe's writers take part, on rank 0, from a step on."""
        if self.world.leads:
            self._writers = Writers(
                recipe.logging, self.run.root, recipe, step=step, sent=self._sent
            )
        try:
            yield
        finally:
            if self._writers is not None:
                self._writers.close()
                self._writers = None

    def append(self, line: dict[str, Any]) -> None:
        """Write a line of the log."""
        self.write(lambda: self.run.log.append(line))
        if self._writers is not None:
            self._writers.write(line)

    def write(self, work: Callable[[], None]) -> None:
        """Write one of the run's files on rank 0; a failure stops all ranks at the next step."""
        if not self.world.leads:
            return
        try:
            work()
        except OSError as error:
            self.trouble = self.trouble or TrainingError(
                f"{error.filename or self.run.root}: cannot be written ({error.strerror}); free "
                f"space, or make it writable, and start again: the run goes on from its last "
                f"checkpoint"
            )

    def mark_fatal_skips(self) -> None:
        """See `RunFolder.mark_fatal_skips`."""
        self.write(self.run.mark_fatal_skips)

    def record_skips(
        self,
        skips: Sequence[Skip],
        step: int,
        known: dict[tuple[str, int], Skip],
        *,
        during: During = "training",
    ) -> None:
        """Write down samples that could not be read, those that are not ``known`` yet."""
        for skip in skips:
            if skip.occurrence in known and during == "validation":
                continue  # said once: the same samples come every time
            if skip.occurrence not in known:
                entry = {"step": step, **vars(skip)}
                if during == "validation":
                    entry["during"] = during
                self.write(lambda entry=entry: self.run.skips.append(entry))  # type: ignore[misc]
            logger.warning("step %d, %s: skipped %s: %s", step, during, skip.sample_id, skip.detail)
