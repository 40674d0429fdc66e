"""Steps of a plan, read by worker processes ahead of the training loop."""

import contextlib
import logging
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field

from smolvlm2.errors import PlanError, SmolVLMError
from smolvlm2.loading.micro_batch import MicroBatch
from smolvlm2.loading.reader import PackReader
from smolvlm2.loading.ring import MIB, Ring
from smolvlm2.loading.step_batch import StepBatch
from smolvlm2.loading.workers import Answer, WorkerPool
from smolvlm2.plan.packs import Pack
from smolvlm2.plan.plan import Plan, Position

logger = logging.getLogger(__name__)

SAMPLE_TIMEOUT_S = 120.0
"""Default of ``data.sample_timeout_s``."""


class Loader:
    """Steps of a plan in order, the same at any number of workers.

    With workers, packs are views of a ring of ``packs of a step + workers + 1`` buffers
    (``workers + 2`` at one pack a step). A worker that dies, or that a sample keeps for longer than
    ``timeout_s``, is replaced, and the sample skipped. Without workers a decoder that hangs cannot
    be interrupted: only ``video.timeout_s`` holds, between frames.

    Args:
        plan: Decides what every step holds.
        reader: Turns packs into arrays.
        position: Where to begin.
        workers: Processes beside the caller's; 0 reads in the caller's process.
        timeout_s: Seconds that one sample may take in a worker.
        pin: Whether the buffers are pinned for the CUDA device; needs torch.

    Raises:
        DataError: The buffers do not fit in memory; says how much is needed.
    """

    def __init__(
        self,
        plan: Plan,
        reader: PackReader,
        position: Position,
        *,
        workers: int,
        timeout_s: float = SAMPLE_TIMEOUT_S,
        pin: bool = False,
    ) -> None:
        self._plan = plan
        self._reader = reader
        self._position = position
        self._stream: _Stream | None = None
        self.pool: WorkerPool | None = None
        if workers:
            self._ring = Ring(reader.shape, plan.packs_per_step + workers + 1)
            logger.info(
                "%d loader processes, %d pack buffers of together %d MiB",
                workers,
                self._ring.slots,
                self._ring.size // MIB,
            )
            if pin:
                self._ring.pin()
            self.pool = WorkerPool(reader, self._ring, workers, timeout_s)

    def __iter__(self) -> Iterator[StepBatch]:
        """All steps from the position on; the caller stops when it has had its steps.

        Raises:
            DataError: Workers cannot start, or a sample has another length than planned.
        """
        if self.pool is None:
            return self._in_process()
        if self._stream is not None:
            self._stream.drain()
        self._stream = _Stream(self._plan, self._reader, self._position, self._ring, self.pool)
        return self._stream

    def _in_process(self) -> Iterator[StepBatch]:
        position = self._position
        while True:
            packs, position = self._plan.step(position)
            results = [self._reader.read(pack) for pack in packs]
            yield StepBatch(
                packs=[batch for batch, _ in results],
                skips=[skip for _, skips in results for skip in skips],
                position=position,
            )

    def close(self) -> None:
        """Stop the workers."""
        if self.pool is not None:
            self.pool.close()

    def __enter__(self) -> "Loader":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


@dataclass(kw_only=True)
class _Step:
    """A step whose packs are being read."""

    packs: list[Pack]
    position: Position
    tickets: list[int] = field(default_factory=list)
    slots: list[int] = field(default_factory=list)
    results: list[Answer] = field(default_factory=list)
    """Of the first tickets: each is answered once, also where Ctrl-C comes in between."""


class _Stream(Iterator[StepBatch]):
    """Keeps every free slot of the ring busy, in the order of the plan."""

    def __init__(
        self, plan: Plan, reader: PackReader, position: Position, ring: Ring, pool: WorkerPool
    ) -> None:
        self._plan, self._reader, self._ring, self._pool = plan, reader, ring, pool
        self._following = position
        self._steps: deque[_Step] = deque()
        self._end: PlanError | None = None
        self._lent: dict[int, tuple[MicroBatch, int]] = {}
        self._free = deque(range(ring.slots))
        self._fill()

    def __next__(self) -> StepBatch:
        self._release_all()
        if not self._steps:
            assert self._end is not None
            raise self._end
        step = self._steps[0]
        for ticket in step.tickets[len(step.results) :]:
            step.results.append(self._pool.result(ticket))
        results = step.results
        self._steps.popleft()
        packs = [
            facts.batch(self._ring.buffers(slot))
            for (facts, _), slot in zip(results, step.slots, strict=True)
        ]
        self._lent = dict(enumerate(zip(packs, step.slots, strict=True)))
        return StepBatch(
            packs=packs,
            skips=[skip for _, skips in results for skip in skips],
            position=step.position,
            on_release=self._release,
        )

    def drain(self) -> None:
        """Wait for what is being read, and forget it."""
        for step in self._steps:
            for ticket in step.tickets[len(step.results) :]:
                with contextlib.suppress(SmolVLMError, RuntimeError):
                    self._pool.result(ticket)

    def _release(self, number: int) -> None:
        """Use a pack's slot again; its arrays are taken away, so that nobody sees them change."""
        if number not in self._lent:
            return
        batch, slot = self._lent.pop(number)
        batch.detach()
        self._free.append(slot)
        self._fill()

    def _release_all(self) -> None:
        for number in list(self._lent):
            self._release(number)

    def _fill(self) -> None:
        while self._free and self._plan_on():
            step = self._steps[-1]
            slot = self._free.popleft()
            planned = self._reader.planned(step.packs[len(step.tickets)])
            step.slots.append(slot)
            step.tickets.append(self._pool.submit(slot, planned))

    def _plan_on(self) -> bool:
        """Whether the last step of those begun has a pack that is not being read yet."""
        if self._steps and len(self._steps[-1].tickets) < len(self._steps[-1].packs):
            return True
        if self._end is not None:
            return False
        try:
            packs, self._following = self._plan.step(self._following)
        except PlanError as error:
            self._end = error  # the steps before it are still to come
            return False
        self._steps.append(_Step(packs=packs, position=self._following))
        return True
