"""A trace of some steps of a run, for Perfetto, and a picture of the device's memory in them."""

import logging
import os
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType

import torch
from torch.profiler import ProfilerActivity, profile, record_function

from smolvlm2.training.distributed import World
from smolvlm2.training.training_settings import ProfileSettings

logger = logging.getLogger(__name__)

MEMORY_EVENTS = 1_000_000
"""Allocations and releases that a snapshot of CUDA memory holds, the last ones."""


class StepProfiler:
    """Writes to ``profile/`` of the run folder, for each rank asked for:

    ``rank-0-step-00000010.trace.json.gz`` (open it in ui.perfetto.dev) and on CUDA
    ``rank-0-step-00000010.memory.pickle`` (open it in pytorch.org/memory_viz). Writing takes some
    ten seconds, in which the other ranks wait. A context: steps that end in an error are written
    too, since an error for want of memory is a reason to look.

    Args:
        settings: Of the recipe; None: nothing is profiled.
        folder: Where to write.
        world: All ranks.
        last_step: Where the run ends.
    """

    def __init__(
        self, settings: ProfileSettings | None, folder: Path, world: World, *, last_step: int
    ) -> None:
        wanted = settings is not None and world.rank in settings.ranks
        self._settings = settings if wanted else None
        self._folder, self._rank, self._device = folder, world.rank, world.device
        self._last_step = last_step
        self._profile: profile | None = None
        self._step = ExitStack()
        self._first = 0

    def begin(self, step: int) -> None:
        """Called before each step; the first that is asked for starts the recording."""
        settings = self._settings
        if settings is None or step < settings.first_step:
            return
        if self._profile is None:
            if step > settings.first_step:
                return  # resumed behind it, or done
            self._start(step)
        self._step.enter_context(record_function(f"step {step}"))

    def end(self, step: int) -> None:
        """Called after each step; the last that is asked for ends the recording."""
        if self._settings is None or self._profile is None:
            return
        self._step.close()
        if step + 1 >= min(self._settings.first_step + self._settings.steps, self._last_step):
            self._write()

    def __enter__(self) -> "StepProfiler":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._step.close()
        if self._profile is not None:
            self._write()

    def _start(self, step: int) -> None:
        activities = [ProfilerActivity.CPU]
        if self._device.type == "cuda":
            activities.append(ProfilerActivity.CUDA)
            torch.cuda.memory._record_memory_history(max_entries=MEMORY_EVENTS)
        self._first = step
        # Events are kept from step to step, which torch < 2.13 warns of unless it is asked for.
        self._profile = profile(activities=activities, record_shapes=True, acc_events=True)
        self._profile.start()

    def _write(self) -> None:
        """Leave the files, whole or not at all; a failure costs them, not the run."""
        recorded, self._profile = self._profile, None
        assert recorded is not None
        cuda = self._device.type == "cuda"
        try:
            recorded.stop()
            self._folder.mkdir(exist_ok=True)
            self._leave("trace.json.gz", recorded.export_chrome_trace)
            if cuda:
                self._leave("memory.pickle", torch.cuda.memory._dump_snapshot)
        except (OSError, RuntimeError) as error:
            logger.warning("training.profile: nothing is kept of it, training goes on: %s", error)
        finally:
            if cuda:
                torch.cuda.memory._record_memory_history(enabled=None)

    def _leave(self, kind: str, write: Callable[[str], object]) -> None:
        path = self._folder / f"rank-{self._rank}-step-{self._first:08d}.{kind}"
        partial = path.with_name(f".partial-{path.name}")
        write(str(partial))
        os.replace(partial, path)
        logger.info("training.profile: %s", path)
