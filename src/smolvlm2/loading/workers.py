"""Processes that read packs, and the watchdog that survives their deaths.

torch's DataLoader cannot lose a worker: one clip that crashes or hangs a decoder ends the run.
Here the worker is killed, the sample it was at becomes a skip, and its pack is read again.
"""

import atexit
import itertools
import logging
import multiprocessing
import os
import signal
import threading
import time
import traceback
from collections import deque
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any

from smolvlm2.errors import DataError, SmolVLMError
from smolvlm2.loading.micro_batch import NO_SAMPLE, PackFacts
from smolvlm2.loading.reader import PackReader, PlannedSample, Skip
from smolvlm2.loading.ring import Ring

logger = logging.getLogger(__name__)

MOST_DEATHS = 3
"""Deaths in a row that are an error: without a sample to blame, and no pack read in between."""
PATIENCE_S = 5.0
"""Seconds that a killed process may take to be gone; inside a dead file system it never is."""
STOPPED_S = 1.0
"""A watchdog that wakes so much later than it asked to was stopped, and so were the workers."""

Answer = tuple[PackFacts, list[Skip]]
# Spawned, not forked: a fork of a process with threads can hang in a lock.
_SPAWN = multiprocessing.get_context("spawn")


@dataclass(kw_only=True, eq=False)
class _Task:
    ticket: int
    slot: int
    planned: list[PlannedSample]
    lost: dict[int, Skip] = field(default_factory=dict)


@dataclass(kw_only=True, eq=False)
class _Worker:
    process: BaseProcess
    pipe: Connection
    task: _Task | None = None


class WorkerPool:
    """Reads packs into the slots of a ring, one pack a task, in the order given.

    A thread hands tasks to idle workers, collects answers, and watches. It waits in the operating
    system nearly all the time.
    """

    def __init__(self, reader: PackReader, ring: Ring, workers: int, timeout_s: float) -> None:
        """Start the processes.

        Args:
            reader: Copied to each worker.
            ring: Where packs go; shared with each worker.
            workers: Number of processes.
            timeout_s: Seconds that one sample may take.
        """
        self._reader, self._ring, self._timeout_s = reader, ring, timeout_s
        self._sent = reader.without_tables()
        self._tickets = itertools.count()
        self._waiting: deque[_Task] = deque()
        self._answers: dict[int, Answer | BaseException] = {}
        self._failure: BaseException | None = None
        self._closing = self._ended = self._closed = False
        self._deaths = 0
        self._changed = threading.Condition()
        self._wake, self._bell = multiprocessing.Pipe(duplex=False)
        self._workers = [self._start() for _ in range(workers)]
        self._thread = threading.Thread(target=self._run, name="loader watchdog", daemon=True)
        self._thread.start()
        # Before multiprocessing's own end, which would wait for workers that ignore its signal.
        atexit.register(self.close)

    @property
    def pids(self) -> list[int]:
        """Process ids of the workers at the moment."""
        return [worker.process.pid or 0 for worker in self._workers]

    def submit(self, slot: int, planned: list[PlannedSample]) -> int:
        """Have a pack read into a slot; returns the ticket to ask for it with."""
        task = _Task(ticket=next(self._tickets), slot=slot, planned=planned)
        with self._changed:
            self._waiting.append(task)
        if not self._closing:
            self._bell.send_bytes(b".")
        return task.ticket

    def result(self, ticket: int) -> Answer:
        """Wait for a pack.

        Raises:
            DataError: A sample has another length than planned, or the workers cannot start.
        """
        with self._changed:
            while ticket not in self._answers:
                if self._failure is not None:
                    raise self._failure
                if self._ended:
                    raise DataError("the loader was closed, or its watchdog ended with an error")
                self._changed.wait()
            answer = self._answers[ticket]
            if isinstance(answer, BaseException):
                raise answer  # and once more to whoever asks again
            del self._answers[ticket]
        return answer

    def close(self) -> None:
        """Kill the workers: they hold nothing that needs to be saved."""
        if self._closed:
            return
        if not self._closing:
            self._closing = True
            self._bell.send_bytes(b".")
        try:
            self._thread.join()
        finally:  # Ctrl-C must not leave any: they ignore the signal that Python ends them with
            for worker in self._workers:
                worker.process.kill()
        for worker in self._workers:
            worker.process.join(PATIENCE_S)
            worker.pipe.close()
        self._wake.close()
        self._bell.close()
        self._closed = True
        atexit.unregister(self.close)

    def _run(self) -> None:
        try:
            while not self._closing and self._failure is None:
                self._assign()
                pipes: list[Any] = [worker.pipe for worker in self._workers]
                sentinels = [worker.process.sentinel for worker in self._workers]
                patience, asked = self._time_left(), time.monotonic()
                ready = wait([self._wake, *pipes, *sentinels], patience)
                if patience is not None and time.monotonic() - asked > patience + STOPPED_S:
                    self._restart_clocks()
                if self._wake in ready:
                    self._wake.recv_bytes()
                for worker in list(self._workers):
                    if worker.pipe in ready or worker.process.sentinel in ready:
                        self._collect(worker)
                    elif self._is_late(worker):
                        self._replace(worker, late=True)
        finally:
            with self._changed:
                self._ended = True
                self._changed.notify_all()

    def _assign(self) -> None:
        """Give idle workers the oldest tasks."""
        for worker in list(self._workers):
            with self._changed:
                if worker.task is not None or not self._waiting:
                    continue
                task = worker.task = self._waiting.popleft()
            self._ring.buffers(task.slot).end_samples()
            try:
                worker.pipe.send((task.slot, task.planned, task.lost))
            except OSError:  # it died while it was idle
                self._replace(worker)

    def _time_left(self) -> float | None:
        """Seconds until the first sample is late; None: nobody is at work."""
        spent = [
            self._ring.buffers(worker.task.slot).reading()
            for worker in self._workers
            if worker.task
        ]
        if not spent:
            return None
        at_work = [seconds for number, seconds in spent if number != NO_SAMPLE]
        return max(self._timeout_s - max(at_work, default=0.0), 0.0) + 0.01

    def _restart_clocks(self) -> None:
        """Samples begin anew: while Ctrl-Z or a batch system stopped all processes, none was read.

        Should only this process have been kept from running, a worker that hangs is found later.
        """
        for worker in self._workers:
            if worker.task:
                self._ring.buffers(worker.task.slot).restart_clock()

    def _is_late(self, worker: _Worker) -> bool:
        if worker.task is None:
            return False
        number, seconds = self._ring.buffers(worker.task.slot).reading()
        return number != NO_SAMPLE and seconds > self._timeout_s

    def _collect(self, worker: _Worker) -> None:
        """Take a worker's answer, or bury it."""
        try:
            answer = worker.pipe.recv() if worker.pipe.poll() else None
        except (EOFError, OSError):
            answer = None
        if answer is None:
            self._replace(worker)
            return
        task, worker.task = worker.task, None
        assert task is not None
        self._deaths = 0
        with self._changed:
            self._answers[task.ticket] = answer
            self._changed.notify_all()

    def _replace(self, worker: _Worker, *, late: bool = False) -> None:
        """Start a worker in place of one that is dead or late, and have its pack read again."""
        worker.process.kill()
        worker.process.join(PATIENCE_S)
        worker.pipe.close()
        exit_code = worker.process.exitcode
        how = (
            f"was killed after {self._timeout_s:g} s (data.sample_timeout_s)"
            if late
            else _how_it_ended(exit_code)
        )
        task = worker.task
        blamed = self._blame(task, how) if task else False
        if task:
            with self._changed:
                self._waiting.appendleft(task)
        self._deaths = 0 if blamed else self._deaths + 1
        if self._deaths >= MOST_DEATHS:
            self._fail(
                DataError(
                    f"{MOST_DEATHS} loader processes in a row {how}, none of them while it read a "
                    f"sample; see their messages above, or run again with data.workers=0 to read "
                    f"in the main process"
                )
            )
            return
        self._workers[self._workers.index(worker)] = self._start()

    def _blame(self, task: _Task, how: str) -> bool:
        """Make the sample that a dead worker was at a skip; False if it was at none."""
        buffers = self._ring.buffers(task.slot)
        number, _ = buffers.reading()
        buffers.end_samples()
        if number == NO_SAMPLE:
            logger.warning("a loader process %s between samples; its pack is read again", how)
            return False
        planned = task.planned[number]
        sample_id = self._reader.manifests[planned.source].sample_id(planned.row)
        detail = f"the loader process that read it {how}"
        logger.warning("%s: %s; the pack is read again without it", sample_id, detail)
        task.lost[number] = Skip(
            sample_id=sample_id, reason="corrupt_media", detail=detail, epoch=planned.epoch
        )
        return True

    def _fail(self, error: BaseException) -> None:
        with self._changed:
            self._failure = error
            self._changed.notify_all()

    def _start(self) -> _Worker:
        ours, theirs = _SPAWN.Pipe()
        process = _SPAWN.Process(
            target=_work, args=(self._sent, self._ring, theirs), name="loader", daemon=True
        )
        process.start()
        theirs.close()
        return _Worker(process=process, pipe=ours)


def _how_it_ended(exit_code: int | None) -> str:
    if exit_code is None:
        return "closed its pipe and does not end"
    if exit_code >= 0:
        return f"ended with exit code {exit_code}"
    try:
        name = signal.Signals(-exit_code).name
    except ValueError:
        name = f"signal {-exit_code}"
    hint = ", perhaps because memory ran out" if name == "SIGKILL" else ""
    return f"was ended by {name}{hint}"


def _work(reader: PackReader, ring: Ring, pipe: Connection) -> None:
    """The whole life of a worker."""
    # Ctrl-C reaches every process of a terminal, SIGTERM and SIGUSR1 every process of a batch job:
    # the trainer decides what they mean, and kills or leaves its workers behind.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=_exit_with_parent, daemon=True).start()
    # One thread a worker: their number is the degree of parallelism. Only a reader that resizes
    # with torch pays for importing it.
    if reader.processor.image.resample == "fast":
        import torch

        torch.set_num_threads(1)
    while True:
        try:
            slot, planned, lost = pipe.recv()
        except (EOFError, OSError):
            return
        answer: Answer | BaseException
        try:
            answer = reader.read_into(ring.buffers(slot), planned, lost)
        except (
            Exception
        ) as error:  # the main function of a process: what went wrong goes to its parent
            answer = _portable(error)
        pipe.send(answer)


def _portable(error: Exception) -> BaseException:
    """The error as it can cross to another process: its own type if that survives, and a trace."""
    trace = "".join(traceback.format_exception(error))
    if isinstance(error, SmolVLMError):
        return type(error)(str(error))
    return RuntimeError(f"a loader process failed, which is a defect of smolvlm2:\n{trace}")


def _exit_with_parent() -> None:
    """Without this a worker whose trainer was killed would wait for its next pack for ever."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
