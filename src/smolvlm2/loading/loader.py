"""Packs of the plan, read and processed by worker processes ahead of the training loop."""

import multiprocessing
import os
import threading
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field

from smolvlm2.data.manifest import Manifest
from smolvlm2.data.media import MediaStore
from smolvlm2.errors import DataError, MediaError, PromptError
from smolvlm2.loading.micro_batch import LossWeight, MicroBatch, PackSample, assemble
from smolvlm2.plan.packs import Capacity, Pack
from smolvlm2.plan.plan import Plan, Position
from smolvlm2.plan.samples import SourceTable
from smolvlm2.processing.processor import Processor

WORKER_DIED = (
    "a loader process died (out of memory, or a crash in a decoder); run again with "
    "data.workers=0 to see it in the main process"
)


@dataclass(kw_only=True)
class Skip:
    """A sample that could not be read when its turn came."""

    sample_id: str
    """Stable id."""
    reason: str
    """One of the ledger's reasons."""
    detail: str
    """For a human."""
    epoch: int = 0
    """Of its source: with the id it names one occurrence, which stays skipped on replay."""

    @property
    def occurrence(self) -> tuple[str, int]:
        """Which sample, at which of its turns."""
        return self.sample_id, self.epoch


@dataclass(kw_only=True)
class PackReader:
    """Turns one pack into arrays; sent to each worker once."""

    tables: list[SourceTable]
    """Of the plan."""
    manifests: list[Manifest]
    """One for each table."""
    processor: Processor
    """Reads media and text."""
    capacity: Capacity
    """Of a pack."""
    image_token_id: int
    """Id of ``<image>``."""
    pad_token_id: int
    """Id of the filler."""
    loss_weight: LossWeight = "token"
    """See `assemble`."""
    skip_ids: frozenset[str] = frozenset()
    """Samples left out by the user."""
    skipped_before: dict[tuple[str, int], Skip] = field(default_factory=dict)
    """Skips of this run by occurrence: on replay they are reported again without a try."""

    def read(self, pack: Pack) -> tuple[MicroBatch, list[Skip]]:
        """Read and process a pack's samples; unreadable ones are left out and reported.

        Raises:
            DataError: A sample has another length than planned; its geometry is stale.
        """
        samples, skips = [], []
        columns = {
            name: pack.samples.column(self.tables, name)
            for name in ("rows", "messages", "tokens", "tiles", "modality")
        }
        for number, source in enumerate(pack.samples.source.tolist()):
            planned = {name: int(values[number]) for name, values in columns.items()}
            manifest = self.manifests[source]
            row = manifest.row(planned["rows"])
            if row.sample_id in self.skip_ids:
                continue
            occurrence = (row.sample_id, int(pack.samples.epoch[number]))
            if occurrence in self.skipped_before:
                skips.append(self.skipped_before[occurrence])
                continue
            messages = row.messages[: planned["messages"]]
            markers = sum(
                part["type"] != "text" for message in messages for part in message["content"]
            )
            store = MediaStore(manifest.data_root)
            try:
                media = [store.read(locator) for locator in row.media[:markers]]
                sample = self.processor.encode_sample(messages, media)
            except (MediaError, PromptError) as error:
                reason = error.reason if isinstance(error, MediaError) else "placeholder_mismatch"
                name, epoch = occurrence
                skips.append(Skip(sample_id=name, reason=reason, detail=str(error), epoch=epoch))
                continue
            samples.append(
                PackSample(
                    sample_id=row.sample_id,
                    sample=sample,
                    tokens=planned["tokens"],
                    tiles=planned["tiles"],
                    modality=planned["modality"],
                )
            )
        batch = assemble(
            samples,
            self.capacity,
            tile_size=self.processor.tile_size,
            tokens_per_tile=self.processor.tokens_per_tile,
            image_token_id=self.image_token_id,
            pad_token_id=self.pad_token_id,
            loss_weight=self.loss_weight,
        )
        return batch, skips


@dataclass(kw_only=True)
class StepBatch:
    """Everything that one optimiser step reads."""

    packs: list[MicroBatch]
    """K packs."""
    position: Position
    """Where the next step begins."""
    skips: list[Skip] = field(default_factory=list)
    """Samples that could not be read."""


class Loader:
    """Steps of a plan in order, prepared ahead of time.

    Args:
        plan: Decides what every step holds.
        reader: Turns packs into arrays.
        position: Where to begin.
        workers: Processes beside the caller's; 0 reads in the caller's process.
        ahead: Steps that are prepared ahead.
    """

    def __init__(
        self, plan: Plan, reader: PackReader, position: Position, *, workers: int, ahead: int = 2
    ) -> None:
        self._plan = plan
        self._reader = reader
        self._position = position
        self._ahead = ahead
        self._pool: ProcessPoolExecutor | None = None
        if workers:
            # Spawned, not forked: a fork of a process with threads can hang in a lock.
            self._pool = ProcessPoolExecutor(
                workers,
                mp_context=multiprocessing.get_context("spawn"),
                initializer=_start_worker,
                initargs=(reader,),
            )

    def __iter__(self) -> Iterator[StepBatch]:
        """Endless; the caller stops when it has had its steps.

        Raises:
            DataError: A worker died, or a sample has another length than planned.
        """
        waiting: deque[tuple[list[Future | Pack], Position]] = deque()
        following = self._position
        while True:
            while len(waiting) <= (self._ahead if self._pool else 0):
                packs, following = self._plan.step(following)
                waiting.append(([self._submit(pack) for pack in packs], following))
            tasks, position = waiting.popleft()
            results = [self._result(task) for task in tasks]
            yield StepBatch(
                packs=[batch for batch, _ in results],
                skips=[skip for _, skips in results for skip in skips],
                position=position,
            )

    def _submit(self, pack: Pack) -> Future | Pack:
        if self._pool is None:
            return pack
        try:
            return self._pool.submit(_read_in_worker, pack)
        except BrokenProcessPool as error:
            raise DataError(WORKER_DIED) from error

    def _result(self, task: Future | Pack) -> tuple[MicroBatch, list[Skip]]:
        if isinstance(task, Pack):
            return self._reader.read(task)
        try:
            return task.result()
        except BrokenProcessPool as error:
            raise DataError(WORKER_DIED) from error

    def close(self) -> None:
        """Stop the workers; tasks that have not begun are dropped."""
        if self._pool:
            self._pool.shutdown(wait=False, cancel_futures=True)

    def __enter__(self) -> "Loader":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


_worker_reader: PackReader | None = None


def _start_worker(reader: PackReader) -> None:
    global _worker_reader
    _worker_reader = reader
    threading.Thread(target=_exit_with_parent, daemon=True).start()
    # One thread a worker: their number is the degree of parallelism. Only a reader that resizes
    # with torch pays for importing it.
    if reader.processor.image.resample == "fast":
        import torch

        torch.set_num_threads(1)


def _exit_with_parent() -> None:
    """Without this a worker whose trainer was killed would wait for its next pack for ever."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _read_in_worker(pack: Pack) -> tuple[MicroBatch, list[Skip]]:
    assert _worker_reader is not None
    return _worker_reader.read(pack)
