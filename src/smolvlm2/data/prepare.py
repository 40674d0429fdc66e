"""Raw data sets -> prepared sources: a map over inputs, a join, one deterministic reduce."""

import json
import os
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from smolvlm2.data.consuming import is_consumable, release, warn_of_nothing_consumed
from smolvlm2.data.disk_errors import explained
from smolvlm2.data.finishing import (
    clean_up,
    discard,
    finish,
    is_finished,
    remove_built,
    stamp_source,
    take_shards,
    write_json,
)
from smolvlm2.data.geometry import token_folder
from smolvlm2.data.inputs import Input, InputStamp, list_inputs
from smolvlm2.data.joining import JoinResult, join_rows
from smolvlm2.data.kept_frames import FrameSettings
from smolvlm2.data.manifest import GEOMETRY_FOLDER, SOURCE_FILE
from smolvlm2.data.media_index import build_media_index
from smolvlm2.data.part_files import Account, load_account
from smolvlm2.data.parts import map_input
from smolvlm2.data.pool import Report, run_tasks
from smolvlm2.data.reduction import ReducedPart, Reduction
from smolvlm2.data.shards import unfinished_name, verify_shards
from smolvlm2.data.sources.record import Adapter
from smolvlm2.data.token_columns import count_tokens, write_token_columns
from smolvlm2.data.workplace import Workplace
from smolvlm2.errors import DataError
from smolvlm2.processing.tokenizer import Tokenizer

VERSION = 3
"""Raised whenever the same inputs would give another manifest."""


@dataclass(frozen=True, kw_only=True)
class SourceSummary:
    """What became of a source; also stored beside it as ``source.json``."""

    source: str
    version: int
    adapter: str
    licence: str
    frames: dict[str, Any] | None
    """``FrameSettings`` under which clips became frames; None where they are files."""
    rows_read: int
    rows_kept: int
    media_kept: int
    rows_left_out: dict[str, int]
    """Rows by ledger reason; with ``rows_kept`` they add up to ``rows_read``."""
    others_left_out: dict[str, int]
    """Archive members and whole files by ledger reason."""
    not_media: int
    """Texts and the like among the media: passed over, not in the ledger."""
    repairs: dict[str, int]
    """Changes by kind."""
    subsets: list[str]
    """Names that ``geometry.row_subset`` counts in."""
    hash: str
    """Of manifest and geometry."""
    inputs: list[dict[str, Any]]
    """Path and size of each raw file."""


@dataclass(frozen=True, kw_only=True)
class TaskSummary:
    """What one task of an array did."""

    mapped: int
    """Inputs in the share of this task; all of them are mapped now."""
    left: int
    """Inputs of the source, of all shares, that are not mapped yet."""
    total: int
    """Inputs of the source."""


@dataclass(frozen=True, kw_only=True)
class PrepareSettings:
    """How to prepare; of these only ``frames`` changes the result."""

    workers: int = 0
    """Processes; 0 works in this one."""
    frames: FrameSettings | None = None
    """Keep clips as frames under these settings; None keeps the files."""
    consume: bool = False
    """Delete each raw file once its content lies in shards that were read back and compared."""


def prepare_source(
    adapter: Adapter,
    raw: Path,
    out: Path,
    tokenizer: Tokenizer,
    settings: PrepareSettings | None = None,
    progress: Report | None = None,
) -> SourceSummary:
    """Prepare one source, or leave it alone when it is finished and its inputs are the same.

    Interrupted, it goes on with the inputs that are not mapped yet. With another tokenizer it only
    adds that tokenizer's columns. The result is the same for any number of workers and tasks.

    Args:
        adapter: What the data set looks like.
        raw: Its files as published; inside the data root.
        out: The source's own folder, two below the data root: ``data/prepared/<source>``.
        tokenizer: For the token columns.
        settings: How to prepare; None takes the defaults.
        progress: Told of every finished task.

    Raises:
        DataNotFoundError: ``raw`` is missing.
        DataError: No record files in it, all parquet files lack a column, the disk is full, a file
            cannot be read or was changed meanwhile, raw files that are needed were consumed, or
            ``raw`` is outside the data root, where locators could not reach it.
    """
    job = _Job.of(adapter, raw, out, settings or PrepareSettings(), progress)
    if not job.is_finished():
        with job.explained_errors():
            # A run that ended may have had this one's name: containers share names and numbers.
            remove_built(job.built, job.place.shards)
            job.map_inputs(job.inputs)
            job.reduce(tokenizer)
    elif job.settings.consume:
        warn_of_nothing_consumed(job.out, raw, job.inputs)
    # Parts of the same kind are left where a run ended between its last two steps.
    job.discard_leftovers()
    if not token_folder(job.out / GEOMETRY_FOLDER, tokenizer.key).is_dir():
        with explained(job.out):
            job.add_tokens(job.out, tokenizer)
    return load_summary(job.out)


def map_share(
    adapter: Adapter,
    raw: Path,
    out: Path,
    task: tuple[int, int],
    settings: PrepareSettings | None = None,
    progress: Report | None = None,
) -> TaskSummary:
    """Map one task's share of the inputs; ``prepare_source`` maps what is left and finishes.

    Args:
        adapter: What the data set looks like.
        raw: As in ``prepare_source``.
        out: As in ``prepare_source``.
        task: Number i from 0, and count n: every n-th input from the i-th on.
        settings: As in ``prepare_source``; the same for all tasks.
        progress: Told of every finished input.

    Raises:
        DataNotFoundError: As ``prepare_source``.
        DataError: As ``prepare_source``.
    """
    number, count = task
    job = _Job.of(adapter, raw, out, settings or PrepareSettings(), progress)
    share = job.inputs[number::count]
    if job.is_finished():
        return TaskSummary(mapped=len(share), left=0, total=len(job.inputs))
    with job.explained_errors():
        job.map_inputs(share)
    left = sum(job.account(item) is None for item in job.inputs)
    return TaskSummary(mapped=len(share), left=left, total=len(job.inputs))


def load_summary(out: Path) -> SourceSummary:
    """The summary of a finished source."""
    return SourceSummary(**json.loads((out / SOURCE_FILE).read_text(encoding="utf-8")))


@dataclass(frozen=True, kw_only=True)
class _Job:
    """One call of prepare."""

    place: Workplace
    out: Path
    inputs: list[Input]
    recipe: str
    settings: PrepareSettings
    report: Report

    @classmethod
    def of(
        cls,
        adapter: Adapter,
        raw: Path,
        out: Path,
        settings: PrepareSettings,
        progress: Report | None,
    ) -> "_Job":
        raw, out = Path(os.path.abspath(raw)), Path(os.path.abspath(out))
        with explained(raw):
            inputs = list_inputs(adapter, raw)
        place = _workplace(adapter, raw, out, settings.frames)
        recipe = f"version {VERSION}, {adapter!r}, {settings.frames!r}, in {place.raw_prefix}"
        report = progress or (lambda *_: None)
        return cls(
            place=place, out=out, inputs=inputs, recipe=recipe, settings=settings, report=report
        )

    @property
    def built(self) -> Path:
        """Where the results of the reduce are built."""
        return self.place.folder / unfinished_name("reduced")

    def stamp(self, *items: Input) -> InputStamp:
        files = tuple(file for item in items for file in item.files)
        return InputStamp(recipe=self.recipe, files=files)

    def is_finished(self) -> bool:
        return is_finished(self.out, self.stamp(*self.inputs))

    def account(self, item: Input) -> Account | None:
        return _account(self.place, item, self.stamp(item))

    def discard_leftovers(self) -> None:
        """Remove the folder of a finished source's parts, unless other parts are being made."""
        clean_up(self.place.folder)
        found = [load_account(path) for path in self.place.parts.glob("*.json")]
        if found and all(each and each.stamp.recipe == self.recipe for each in found):
            discard(self.place.folder)

    def map_inputs(self, items: Sequence[Input]) -> None:
        """Map those of some inputs that are not mapped yet, and release what may go."""
        self.place.parts.mkdir(parents=True, exist_ok=True)
        clean_up(self.place.folder)
        accounts = {item.name: self.account(item) for item in items}
        consume = self.settings.consume
        todo = []
        for item in items:
            account = accounts[item.name]
            if account is None and item.is_consumed:
                self._refuse_consumed(item)
            if account is None or (consume and is_consumable(item, account)):
                todo.append(item)
        tasks = [
            (self.place, item, self.stamp(item), accounts[item.name], consume) for item in todo
        ]

        def done(number: int, account: Account) -> None:
            if consume and is_consumable(todo[number], account):
                release(self.place, todo[number])

        run_tasks(_map_and_verify, tasks, self.settings.workers, "inputs", self.report, done)

    def _refuse_consumed(self, item: Input) -> None:
        gone = next(file.file for file in item.files if file.modified_ns is None)
        raise DataError(
            f"{self.place.raw / gone}: deleted by an earlier prepare --consume, but it has to be "
            "read again: the inputs, the code or the settings changed since, or a shard is gone. "
            "Download the source again (remove consumed.json from its raw folder first), or keep "
            f"what is prepared in {self.out}"
        )

    def reduce(self, tokenizer: Tokenizer) -> None:
        """Join, reduce, count tokens, and put the source in place."""
        accounts = [(item, self._finished_account(item)) for item in self.inputs]
        self._check_columns(accounts)
        joined = self._join(accounts)
        parts = []
        for item, account in accounts:
            part = self.place.part(item.name)
            result = joined.get(item.name)
            if result is not None:
                account.repairs.update(result.repairs)
            parts.append(
                ReducedPart(
                    name=item.name,
                    account=account,
                    ledgers=(part,) if result is None else (part, result.part),
                    rows=None if item.kind != "rows" else result.part if result else part,
                )
            )
        built = self.built
        built.mkdir()
        adapter, frames = self.place.adapter, self.settings.frames
        files = [file for item in self.inputs for file in item.files]
        facts = {
            "source": adapter.source,
            "version": VERSION,
            "adapter": repr(adapter),
            "licence": adapter.licence,
            "frames": None if frames is None else asdict(frames),
            **Reduction(adapter.source, built).run(parts),
            "inputs": [{"file": file.file, "size": file.size} for file in files],
        }
        write_json(built / SOURCE_FILE, facts)
        shards = {name for _, account in accounts for name in account.shards}
        stamp_source(built, self.stamp(*self.inputs), self.place.shards, shards)
        self.add_tokens(built, tokenizer)
        take_shards(self.place.shards, built, shards)
        self._expect_own_parts()
        finish(self.place.folder, built, self.out, self.stamp(*self.inputs))

    def _expect_own_parts(self) -> None:
        """Refuse what was made of parts and shards that another recipe has replaced meanwhile."""
        for item in self.inputs:
            account = load_account(self.place.part(item.name).with_suffix(".json"))
            if account is None or not account.stamp.is_same(self.stamp(item)):
                raise self._replaced(item)

    def _finished_account(self, item: Input) -> Account:
        account = self.account(item)
        if account is None:
            raise self._replaced(item)
        return account

    def _replaced(self, item: Input) -> DataError:
        return DataError(
            f"{self.place.parts}: the part of {item.name} was removed or replaced meanwhile; "
            "is the source also being prepared with other settings? Run one of them at a time"
        )

    def _check_columns(self, accounts: list[tuple[Input, Account]]) -> None:
        """Refuse a folder of another data set; a single odd file is only unreadable."""
        problems = [account.other_columns for item, account in accounts if item.kind == "rows"]
        if None not in problems:
            raise DataError(problems[0])

    def _join(self, accounts: list[tuple[Input, Account]]) -> dict[str, JoinResult]:
        wanting = [item.name for item, account in accounts if account.rows_wanting]
        if not wanting:
            return {}
        index = self.place.folder / unfinished_name("media.sqlite")
        build_media_index(self.place, self.inputs, index)
        tasks = [(self.place, name, index) for name in wanting]
        results = run_tasks(join_rows, tasks, self.settings.workers, "joins", self.report)
        index.unlink()
        return dict(zip(wanting, results, strict=True))

    def add_tokens(self, folder: Path, tokenizer: Tokenizer) -> None:
        workers, report = self.settings.workers, self.report
        write_token_columns(
            folder,
            tokenizer,
            lambda tasks: run_tasks(count_tokens, tasks, workers, "tokens", report),
        )

    @contextmanager
    def explained_errors(self) -> Iterator[None]:
        with explained(self.place.folder):
            try:
                yield
            except (OSError, DataError, sqlite3.OperationalError):
                # Another run on the same source may have put it in place in the meantime.
                if not self.is_finished():
                    raise


def _account(place: Workplace, item: Input, stamp: InputStamp) -> Account | None:
    """Of an input's part, if there is one and it is still about the same input."""
    account = load_account(place.part(item.name).with_suffix(".json"))
    if account is None or not account.stamp.is_same(stamp):
        return None
    return account if all((place.shards / name).is_file() for name in account.shards) else None


def _map_and_verify(
    place: Workplace, item: Input, stamp: InputStamp, account: Account | None, consume: bool
) -> Account:
    """Map an input unless it is, and read its shards back where the raw file is to go."""
    account = account or _account(place, item, stamp)
    if account is None:
        try:
            account = map_input(place, item, stamp)
        except OSError:
            # Another run on the same source may have mapped the file and consumed it.
            account = _account(place, item, stamp)
            if account is None:
                raise
    if consume and is_consumable(item, account):
        verify_shards(place.shards, account.shards)
    return account


def _workplace(adapter: Adapter, raw: Path, out: Path, frames: FrameSettings | None) -> Workplace:
    root = out.parent.parent
    if not raw.is_relative_to(root):
        raise DataError(
            f"{raw}: outside the data root {root} (two folders above {out}); media are found "
            "relative to the data root, so move or link the raw data below it"
        )
    return Workplace(
        adapter=adapter,
        raw=raw,
        raw_prefix=raw.relative_to(root).as_posix(),
        folder=out.with_name(f"{out.name}.partial"),
        shard_prefix=(out / "shards").relative_to(root).as_posix(),
        frames=frames,
    )
