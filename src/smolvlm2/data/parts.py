"""The map of prepare: one archive, or one file of rows, turned into one part on disk.

A part is what the reduce reads. It is written whole or not at all, and depends on nothing but its
input files, so parts can be made in any order, by any number of processes, and kept over a restart.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from smolvlm2.data.ledger import LedgerLine, LeftOutError
from smolvlm2.data.media import MediaLocator
from smolvlm2.data.media_facts import MediaFacts, media_suffix, probe, sniff_kind
from smolvlm2.data.shards import ShardWriter
from smolvlm2.data.sources.archives import (
    BadMember,
    Member,
    archive_members,
    loose_file,
    member_keys,
)
from smolvlm2.data.sources.conversation import build_messages, to_json
from smolvlm2.data.sources.record import Adapter, RawMedium, Record, split_of
from smolvlm2.data.sources.rows import Row, UnreadableFileError, json_rows, parquet_rows

PART_SCHEMA = pa.schema(
    [
        ("row", pa.int64()),
        ("sample_id", pa.string()),
        ("messages", pa.large_string()),
        ("roles", pa.list_(pa.uint8())),
        ("subset", pa.string()),
        ("flags", pa.uint8()),
        ("media", pa.large_string()),
        ("media_message", pa.list_(pa.int32())),
        ("fingerprint", pa.string()),
    ]
)
_ROLE_NUMBERS = {"system": 0, "user": 1, "assistant": 2}
_FLUSH_ROWS = 4096


@dataclass(frozen=True, kw_only=True)
class Workplace:
    """Folders of one prepare; sent to every worker."""

    adapter: Adapter
    raw: Path
    """The raw folder of the source."""
    raw_prefix: str
    """The raw folder relative to the data root."""
    folder: Path
    """Where the source is being built."""
    shard_prefix: str
    """Where its shards will be, relative to the data root."""

    @property
    def parts(self) -> Path:
        """Folder of the parts; removed at the end."""
        return self.folder / "parts"

    @property
    def shards(self) -> Path:
        """Folder of the shards; stays."""
        return self.folder / "shards"

    def part(self, file: str) -> Path:
        """Start of the file names of one input file's part."""
        return self.parts / part_name(file)


def part_name(file: str) -> str:
    """A flat file name for an input path: readable, and unique by its hash."""
    digest = hashlib.blake2b(file.encode("utf-8", "surrogateescape"), digest_size=4).hexdigest()
    stem = Path(file).name.split(".")[0]
    plain = "".join(c if c.isascii() and (c.isalnum() or c in "-_") else "_" for c in stem)
    return f"{plain[:60]}-{digest}"


@dataclass
class Account:
    """What became of the rows and members of one input file."""

    rows_read: int = 0
    repairs: Counter[str] = field(default_factory=Counter)
    left_out: list[LedgerLine] = field(default_factory=list)

    def save(self, path: Path) -> None:
        """Write as JSON, whole or not at all; its presence says that the part is complete."""
        lines = [vars(line) for line in self.left_out]
        value = {"rows_read": self.rows_read, "repairs": self.repairs, "left_out": lines}
        unfinished = path.with_suffix(".partial")
        unfinished.write_text(json.dumps(value), encoding="utf-8")
        unfinished.replace(path)

    @classmethod
    def load(cls, path: Path) -> "Account":
        """Inverse of ``save``."""
        value = json.loads(path.read_text(encoding="utf-8"))
        return cls(
            rows_read=value["rows_read"],
            repairs=Counter(value["repairs"]),
            left_out=[LedgerLine(**line) for line in value["left_out"]],
        )


def map_archive(place: Workplace, file: str) -> None:
    """Index one archive: probe every member, repack those that cannot be read by offset.

    Args:
        place: Folders and adapter.
        file: The archive, relative to the raw folder.
    """
    account = Account()
    part = place.part(file)
    index: dict[str, dict[str, Any]] = {}
    with (
        closing(archive_members(place.raw / file)) as members,
        ShardWriter(place.shards, part.name) as shards,
    ):
        for number, member in enumerate(members):
            if isinstance(member, BadMember):
                line = LedgerLine(
                    file=file,
                    member=member.name,
                    reason=member.problem.reason,
                    detail=member.problem.detail,
                )
                account.left_out.append(line)
                facts = MediaFacts(reason=line.reason, detail=line.detail)
            else:
                facts = _member_facts(place, file, number, member, shards)
            if member.name is not None:
                index[member.name] = facts.to_json()
    part.with_suffix(".index").write_text(json.dumps(index), encoding="utf-8")
    account.save(part.with_suffix(".json"))


def _member_facts(
    place: Workplace, file: str, number: int, member: Member, shards: ShardWriter
) -> MediaFacts:
    kind = sniff_kind(member.data)
    facts = probe(kind, member.data)
    if facts.get("reason"):
        return MediaFacts(**facts)
    if member.offset is not None:
        path, offset = f"{place.raw_prefix}/{file}", member.offset
    else:
        shard, offset = shards.add(f"{number:08d}.{media_suffix(member.data)}", member.data)
        path = f"{place.shard_prefix}/{shard}"
    locator = MediaLocator(kind, path, offset, len(member.data))
    return MediaFacts(locator=locator, **facts)


class MediaIndex:
    """Finds the media that rows name: in the indexed archives first, then as loose files."""

    def __init__(self, place: Workplace, archives: list[str]) -> None:
        """Load the archives' parts.

        Args:
            place: Folders and adapter.
            archives: Archives relative to the raw folder, in order; the first to have a path wins.
        """
        self._place = place
        # A likelier spelling in a later archive beats an unlikely one in an earlier archive.
        self._by_rank: list[dict[str, dict[str, Any]]] = [{}, {}, {}]
        for file in archives:
            folder, _, name = file.rpartition("/")
            index = json.loads(place.part(file).with_suffix(".index").read_text(encoding="utf-8"))
            for member, facts in index.items():
                keys = member_keys(folder, name, member)
                for known, key in zip(self._by_rank, keys, strict=False):
                    known.setdefault(key, facts)

    def find(self, kind: str, path: str) -> MediaFacts:
        """Facts of the medium that a row calls ``path``.

        Raises:
            LeftOutError: It is missing, unsafe, unusable or of another kind.
        """
        for known in self._by_rank:
            if path in known:
                facts = _usable(MediaFacts.from_json(known[path]), path)
                assert facts.locator is not None
                if facts.locator.kind != kind:
                    detail = f"{path}: is of kind {facts.locator.kind}; expected {kind}"
                    raise LeftOutError("unsupported_media", detail)
                return facts
        file = loose_file(self._place.raw, path)
        locator = MediaLocator(kind, f"{self._place.raw_prefix}/{path}")
        return _usable(MediaFacts(locator=locator, **probe(kind, file.read_bytes())), path)


def _usable(facts: MediaFacts, name: str) -> MediaFacts:
    if facts.reason is not None:
        raise LeftOutError(facts.reason, f"{name}: {facts.detail}")
    return facts


def map_rows(place: Workplace, file: str, archives: list[str]) -> None:
    """Turn one file of rows into a part: checked rows, and the account of all others.

    Args:
        place: Folders and adapter.
        file: The file, relative to the raw folder.
        archives: Indexed archives that its rows may name.
    """
    account = Account()
    part = place.part(file)
    index = MediaIndex(place, archives)
    with (
        pa.OSFile(str(part.with_suffix(".arrow")), "wb") as sink,
        pa.ipc.new_stream(sink, PART_SCHEMA) as writer,
        ShardWriter(place.shards, part.name) as shards,
    ):
        kept: list[dict[str, Any]] = []
        try:
            for number, row in _rows(place, file):
                account.rows_read += 1
                prepared = _prepare_row(place, file, number, row, index, shards, account)
                if prepared is not None:
                    kept.append(prepared)
                if len(kept) == _FLUSH_ROWS:
                    writer.write(pa.RecordBatch.from_pylist(kept, PART_SCHEMA))
                    kept = []
        except UnreadableFileError as error:
            line = LedgerLine(file=file, reason="unreadable_record", detail=str(error))
            account.left_out.append(line)
        if kept:
            writer.write(pa.RecordBatch.from_pylist(kept, PART_SCHEMA))
    account.save(part.with_suffix(".json"))


def _rows(place: Workplace, file: str) -> Iterator[tuple[int, Row]]:
    if place.adapter.reader == "json":
        return json_rows(place.raw / file)
    if (split := split_of(file)) != "train":
        return _other_split(place.raw / file, split)
    return parquet_rows(place.raw / file, place.adapter.columns, place.adapter.optional_columns)


def _other_split(path: Path, split: str) -> Iterator[tuple[int, Row]]:
    """Every row of a file that is not for training, without reading it."""
    try:
        count = pq.read_metadata(path).num_rows
    except (pa.ArrowException, OSError) as error:
        raise UnreadableFileError(f"no parquet file ({error})") from error
    for number in range(count):
        yield number, LeftOutError("non_train_split", f"split {split!r}; expected 'train'")


def _prepare_row(
    place: Workplace,
    file: str,
    number: int,
    row: Row,
    index: MediaIndex,
    shards: ShardWriter,
    account: Account,
) -> dict[str, Any] | None:
    """One row of the part, or None with a line in the account."""
    adapter = place.adapter
    sample_id = f"{adapter.source}/{file.rsplit('.', 1)[0]}:{number}"
    repairs: Counter[str] = Counter()
    try:
        if isinstance(row, LeftOutError):
            raise row
        (record,) = adapter.records(row, file)
        assert isinstance(record, Record)
        if record.native_id is not None:
            sample_id = f"{adapter.source}/{_plain(record.native_id)}"
        messages, order, where = build_messages(
            record.turns,
            media_kinds=[medium.kind for medium in record.media],
            placeholders=adapter.placeholders,
            swap_roles=record.swap_roles,
            repairs=repairs,
        )
        # All media of the row are checked before the first is written to a shard.
        found = [_find(record.media[k], index) for k in order]
        media = [
            _stored(place, f"{number:08d}-{k}", record.media[k], facts, shards)
            for k, facts in zip(order, found, strict=True)
        ]
    except LeftOutError as problem:
        line = LedgerLine(
            file=file,
            row=number,
            sample_id=sample_id,
            reason=problem.reason,
            detail=problem.detail,
        )
        account.left_out.append(line)
        return None
    account.repairs.update(repairs)
    text = to_json(messages)
    content = json.dumps([text, [facts.digest for facts in media]])
    return {
        "row": number,
        "sample_id": sample_id,
        "messages": text,
        "roles": [_ROLE_NUMBERS[message["role"]] for message in messages],
        "subset": record.subset,
        "flags": record.flags,
        "media": json.dumps([facts.to_json() for facts in media]),
        "media_message": where,
        "fingerprint": hashlib.blake2b(content.encode("utf-8"), digest_size=16).hexdigest(),
    }


def _plain(native_id: str) -> str:
    """An id that can be written to any file: half surrogate pairs replaced."""
    return native_id.encode("utf-8", "replace").decode("utf-8")


def _find(medium: RawMedium, index: MediaIndex) -> MediaFacts:
    if medium.data is None:
        return index.find(medium.kind, medium.paths[0])
    return _usable(MediaFacts(**probe(medium.kind, medium.data)), f"embedded {medium.kind}")


def _stored(
    place: Workplace, name: str, medium: RawMedium, facts: MediaFacts, shards: ShardWriter
) -> MediaFacts:
    """Facts with a locator: an embedded medium goes into the shard first."""
    if medium.data is None:
        return facts
    shard, offset = shards.add(f"{name}.{media_suffix(medium.data)}", medium.data)
    locator = MediaLocator(medium.kind, f"{place.shard_prefix}/{shard}", offset, len(medium.data))
    return MediaFacts(**vars(facts) | {"locator": locator})
