"""The map of prepare: one input -> one part on disk.

A part depends on nothing but its input, so parts can be made in any order, by any number of
processes and machines, and kept over a restart.
"""

import json
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from smolvlm2.data.disk_errors import is_of_machine
from smolvlm2.data.inputs import Input, InputStamp, expect_unchanged
from smolvlm2.data.ledger import DamagedFileError, LedgerLine, LeftOutError
from smolvlm2.data.media import is_safe_path
from smolvlm2.data.media_facts import MediaFacts
from smolvlm2.data.media_parts import map_media
from smolvlm2.data.part_files import (
    ROLE_NUMBERS,
    Account,
    RowPartWriter,
    SampleRow,
    load_account,
)
from smolvlm2.data.shards import ShardWriter
from smolvlm2.data.sources.conversation import build_messages, to_json
from smolvlm2.data.sources.json_rows import Row, UnreadableFileError, json_rows
from smolvlm2.data.sources.record import RawMedium, Record, split_of
from smolvlm2.data.sources.rows import OtherColumnsError, json_file_rows, parquet_rows
from smolvlm2.data.stored_media import CheckedMedium, check
from smolvlm2.data.workplace import Workplace

_ODD_ROW_ERRORS = (KeyError, IndexError, TypeError, AttributeError, ValueError)
"""What an adapter meets in a row of a shape that nobody expected."""


def map_input(place: Workplace, item: Input, stamp: InputStamp) -> Account:
    """Make the part of one input.

    Args:
        place: Folders and adapter.
        item: The input.
        stamp: What the part is made from; kept with it.

    Raises:
        OSError: The system does not let the input be read, or the part be written.
        DataError: The input was changed meanwhile; no part was made.
    """
    account, path = Account(stamp=stamp), place.part(item.name).with_suffix(".json")
    earlier = load_account(path)
    if earlier is not None and not earlier.stamp.is_same(stamp):
        # The files of a part are replaced one after the other: what another recipe made is no
        # whole part any more from the first of them on, also for that recipe.
        path.unlink(missing_ok=True)
    if item.kind == "rows":
        map_rows(place, item, account)
    else:
        map_media(place, item, account)
    account.save(path)
    return account


def map_rows(place: Workplace, item: Input, account: Account) -> None:
    """Turn one file of rows into checked samples, and the ledger lines of all others.

    Args:
        place: Folders and adapter.
        item: The file.
        account: Filled with what became of the rows.
    """
    file = item.name
    part = place.part(file)
    with RowPartWriter(part) as out, ShardWriter(place.shards, part.name) as shards:
        mapper = _RowMapper(place, file, account, out, shards)
        try:
            for number, name, row in _rows(place, file):
                mapper.take(number, name, row)
        except OtherColumnsError as error:
            account.other_columns = str(error)
            for number in range(error.rows):
                mapper.take(number, None, LeftOutError("unreadable_record", error.detail))
        except UnreadableFileError as error:
            line = LedgerLine(file=file, reason="unreadable_record", detail=str(error))
            account.problems.append(line)
        expect_unchanged(place.raw, item)
    account.shards = shards.checksums


def _rows(place: Workplace, file: str) -> Iterator[tuple[int, str | None, Row]]:
    """Number, name of the file inside ``file`` if it holds several, and row."""
    adapter, path = place.adapter, place.raw / file
    if adapter.reader == "json_files":
        yield from json_file_rows(path)
        return
    if adapter.reader == "json":
        numbered = json_rows(path)
    elif (split := split_of(file)) != "train":
        numbered = _other_split(place, file, split)
    else:
        numbered = parquet_rows(path, adapter.columns, adapter.optional_columns)
    for number, row in numbered:
        yield number, None, row


def _other_split(place: Workplace, file: str, split: str) -> Iterator[tuple[int, Row]]:
    """Every row of a file that is not for training, without reading it."""
    try:
        count = pq.read_metadata(place.raw / file).num_rows
    except (pa.ArrowException, OSError) as error:
        if is_of_machine(error):
            raise
        raise UnreadableFileError(f"no parquet file ({error})") from error
    for number in range(count):
        yield number, LeftOutError("non_train_split", f"split {split!r}; expected 'train'")


class _RowMapper:
    """Takes the rows of one file, one after the other."""

    def __init__(
        self,
        place: Workplace,
        file: str,
        account: Account,
        out: RowPartWriter,
        shards: ShardWriter,
    ) -> None:
        self._place = place
        self._file = file
        self._account = account
        self._out = out
        self._shards = shards
        # Of the row in hand: samples of a row may show the same file, which is stored once.
        self._checked: dict[int, CheckedMedium] = {}
        self._stored: dict[int, MediaFacts] = {}

    def take(self, number: int, name: str | None, row: Row) -> None:
        """Turn one row into its samples, or into lines of the ledger.

        Args:
            number: Of the row in its file.
            name: File inside the record file that the row is; None where the file has rows.
            row: As the reader gave it.
        """
        file = self._file if name is None else f"{self._file}/{name}"
        unnamed = plain_text(f"{self._place.adapter.source}/{file.rsplit('.', 1)[0]}:{number}")
        self._checked, self._stored = {}, {}
        read = 0
        self._account.damaged |= isinstance(row, DamagedFileError)
        try:
            if isinstance(row, LeftOutError):
                raise row
            for record in self._records(row, file):
                read += 1
                self._take_record(number, name, unnamed, record, read)
            if not read:
                raise LeftOutError("incomplete_record", "the row holds no sample")
        except LeftOutError as problem:
            read += 1
            self._leave_out(number, name, unnamed, problem)
        self._account.rows_read += read

    def _records(self, row: dict[str, Any], file: str) -> Iterator[Record | LeftOutError]:
        try:
            yield from self._place.adapter.records(row, file)
        except _ODD_ROW_ERRORS as error:
            detail = f"the row has an unexpected shape ({type(error).__name__}: {error})"
            raise LeftOutError("unreadable_record", detail) from error

    def _leave_out(
        self, number: int, name: str | None, sample_id: str, problem: LeftOutError
    ) -> None:
        line = LedgerLine(
            file=self._file,
            row=number,
            member=name,
            sample_id=sample_id,
            reason=problem.reason,
            detail=problem.detail,
        )
        self._out.leave_out(line)

    def _take_record(
        self, number: int, name: str | None, unnamed: str, record: Record | LeftOutError, place: int
    ) -> None:
        sample_id = unnamed
        if isinstance(record, Record) and record.native_id is not None:
            sample_id = f"{self._place.adapter.source}/{plain_text(record.native_id)}"
        try:
            if isinstance(record, LeftOutError):
                raise record
            self._add(number, sample_id, record, place)
        except LeftOutError as problem:
            self._leave_out(number, name, sample_id, problem)

    def _add(self, number: int, sample_id: str, record: Record, place: int) -> None:
        """Check a sample and write it; raises LeftOutError before anything is written."""
        repairs: Counter[str] = Counter()
        messages, order, where = build_messages(
            record.turns,
            media_kinds=[medium.kind for medium in record.media],
            placeholders=(
                self._place.adapter.placeholders
                if record.placeholders is None
                else record.placeholders
            ),
            swap_roles=record.swap_roles,
            repairs=repairs,
        )
        media = [record.media[k] for k in order]
        for medium in media:
            self._check(medium)
        row = SampleRow(
            row=number,
            sample_id=sample_id,
            messages=to_json(messages),
            roles=[ROLE_NUMBERS[message["role"]] for message in messages],
            subset=plain_text(record.subset),
            flags=record.flags,
            media_message=where,
        )
        stem = f"{number:08d}-{place - 1}-" if place > 1 else f"{number:08d}-"
        entries = [self._entry(medium, f"{stem}{k}") for k, medium in enumerate(media)]
        facts = [entry for entry in entries if isinstance(entry, MediaFacts)]
        if len(facts) == len(entries):
            self._account.repairs.update(repairs)
            self._out.add_sample(row, facts)
            return
        # Repairs count only once the sample is known to stay.
        self._account.rows_wanting += 1
        wanted = [e if isinstance(e, dict) else {"facts": e.to_json()} for e in entries]
        self._out.add_wanting(row, json.dumps({"media": wanted, "repairs": repairs}))

    def _check(self, medium: RawMedium) -> None:
        """Refuse a medium that is unsafe, or known to be unusable."""
        if medium.data is None:
            for path in medium.paths:
                if path != plain_text(path):
                    raise LeftOutError("missing_media", f"{path!r} can be no file's name")
                if not is_safe_path(path):
                    detail = f"{path!r} is absolute or has '..' or '\\'; expected a relative path"
                    raise LeftOutError("unsafe_path", detail)
            if not medium.paths:
                raise LeftOutError("missing_media", f"the row names no file of its {medium.kind}")
            return
        if id(medium.data) not in self._checked:
            self._checked[id(medium.data)] = check(medium.kind, medium.data, self._place.frames)
        facts = self._checked[id(medium.data)].facts
        require_usable(facts, f"embedded {medium.kind}")
        require_duration(facts, medium.min_duration)

    def _entry(self, medium: RawMedium, name: str) -> MediaFacts | dict[str, Any]:
        """Facts of an embedded medium, now in a shard; or what is to be looked up."""
        if medium.data is None:
            wanted: dict[str, Any] = {"kind": medium.kind, "paths": medium.paths}
            if medium.frame_rate:
                wanted["frame_rate"] = medium.frame_rate
            if medium.min_duration:
                wanted["min_duration"] = medium.min_duration
            return wanted
        if id(medium.data) not in self._stored:
            checked = self._checked[id(medium.data)]
            stored = checked.store(name, self._shards, self._place.shard_prefix)
            self._stored[id(medium.data)] = stored
        return self._stored[id(medium.data)]


def require_usable(facts: MediaFacts, name: str) -> None:
    """Raise LeftOutError with the reason of an unusable medium."""
    if facts.reason is not None:
        raise LeftOutError(facts.reason, f"{name}: {facts.detail}")


def require_duration(facts: MediaFacts, seconds: float) -> None:
    """Raise LeftOutError where a row speaks of a time after the end of its clip."""
    if facts.duration < seconds:
        raise LeftOutError(
            "incomplete_record",
            f"speaks of second {seconds:g} of a clip of {facts.duration:.2f} s",
        )


def plain_text(name: str) -> str:
    """A name that can be written to any file: half surrogate pairs replaced."""
    return name.encode("utf-8", "replace").decode("utf-8")
