"""What prepare keeps between map and reduce: one part an input, written whole or not at all.

A part is a few files that begin with its name. They are written under unfinished names and
renamed; the account, ``.json``, comes last and says that the part is complete.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, TextIO, TypeVar

import numpy as np
import pyarrow as pa

from smolvlm2.data.inputs import InputStamp
from smolvlm2.data.ledger import LedgerLine
from smolvlm2.data.media import KINDS
from smolvlm2.data.media_facts import MediaFacts
from smolvlm2.data.shards import make_durable, unfinished_name
from smolvlm2.data.uniqueness import id_hash

_MEDIA_FIELDS = (
    ("media", pa.large_string()),
    ("media_kind", pa.list_(pa.uint8())),
    ("media_width", pa.list_(pa.int32())),
    ("media_height", pa.list_(pa.int32())),
    ("media_duration", pa.list_(pa.float64())),
    ("media_fps", pa.list_(pa.float64())),
    ("media_frames", pa.list_(pa.int32())),
)
MEDIA_FIELDS = tuple(name for name, _ in _MEDIA_FIELDS)
"""Columns of a part that ``media_columns`` gives, in order."""
ROW_SCHEMA = pa.schema(
    [
        ("sample_id", pa.string()),
        ("messages", pa.large_string()),
        ("flags", pa.uint8()),
        ("subset", pa.string()),
        ("roles", pa.list_(pa.uint8())),
        ("media_message", pa.list_(pa.int32())),
        ("row", pa.int64()),
        *_MEDIA_FIELDS,
        ("wanted", pa.large_string()),
    ]
)
"""A sample; ``wanted`` is set while its media are only named, and then their columns are empty."""
MEDIA_SCHEMA = pa.schema([("name", pa.string()), ("facts", pa.large_string())])
KEY_TYPE = np.dtype([("content", "<u8", 2), ("id", "<u8", 2), ("row", "<i8")])
"""What the reduce compares of a sample: hashes of content and id, and the row's number."""
_NO_MEDIA: tuple[Any, ...] = ("[]", *([[]] * (len(MEDIA_FIELDS) - 1)))
ROLE_NUMBERS = {"system": 0, "user": 1, "assistant": 2}
_Writer = TypeVar("_Writer", bound="PartWriter")
_FLUSH_ROWS = 4096
_FLUSH_CHARACTERS = 1 << 24


@dataclass(kw_only=True)
class Account:
    """What became of one input; its presence says that the part is complete."""

    stamp: InputStamp
    """What the part was made from, and how."""
    rows_read: int = 0
    rows_wanting: int = 0
    """Rows whose media are still to be looked up."""
    not_media: int = 0
    """Texts and the like among the media, passed over."""
    repairs: Counter[str] = field(default_factory=Counter)
    problems: list[LedgerLine] = field(default_factory=list)
    """Of the input as a whole."""
    other_columns: str | None = None
    """Set where a parquet file belongs to another data set."""
    read_in_place: bool = False
    """Whether the manifest will need the raw file."""
    damaged: bool = False
    """Whether a part of the input could not be read; another copy of the file may be whole."""
    shards: dict[str, int] = field(default_factory=dict)
    """Names and checksums of the shards that go with the part."""

    def save(self, path: Path) -> None:
        """Write as JSON, whole or not at all."""
        unfinished = path.with_name(unfinished_name(path.name))
        # asdict would make a Counter of pairs out of a Counter.
        value = asdict(self) | {"repairs": dict(self.repairs)}
        unfinished.write_text(json.dumps(value), encoding="utf-8")
        make_durable(unfinished)
        unfinished.replace(path)

    @classmethod
    def load(cls, path: Path) -> "Account":
        """Inverse of ``save``."""
        value = json.loads(path.read_text(encoding="utf-8"))
        return cls(
            **value
            | {
                "stamp": InputStamp.from_json(value["stamp"]),
                "repairs": Counter(value["repairs"]),
                "problems": [LedgerLine(**line) for line in value["problems"]],
            }
        )


def load_account(path: Path) -> Account | None:
    """The account in a file; None where there is none, or one of another version of this code."""
    try:
        return Account.load(path)
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None


class PartWriter:
    """Writes a table and a list of ledger lines; both get their names on success."""

    def __init__(self, part: Path, schema: pa.Schema) -> None:
        """Open the files.

        Args:
            part: Start of the part's file names.
            schema: Of the table.
        """
        self._endings = [".arrow", ".ledger"]
        self._part = part
        self._schema = schema
        self._sink = pa.OSFile(str(self._unfinished(".arrow")), "wb")
        self._writer = pa.ipc.new_stream(self._sink, schema)
        self._lines: TextIO = self._unfinished(".ledger").open("w", encoding="utf-8")
        self._rows: list[tuple[Any, ...]] = []
        self._characters = 0

    def _unfinished(self, ending: str) -> Path:
        return self._part.with_name(unfinished_name(self._part.name + ending))

    def add(self, values: tuple[Any, ...], characters: int) -> None:
        """Append a row of the table.

        Args:
            values: In the order of the schema's columns; columns left out at the end are null.
            characters: About how much memory the row takes until it is written.
        """
        self._rows.append(values)
        self._characters += characters
        if len(self._rows) == _FLUSH_ROWS or self._characters > _FLUSH_CHARACTERS:
            self._flush()

    def leave_out(self, line: LedgerLine) -> None:
        """Append a ledger line; rows must come in order."""
        self._lines.write(json.dumps(vars(line)) + "\n")

    def _flush(self) -> None:
        if self._rows:
            columns = zip(*self._rows, strict=True)
            arrays = [
                pa.array(values, each.type)
                for values, each in zip(columns, self._schema, strict=True)
            ]
            self._writer.write(pa.RecordBatch.from_arrays(arrays, schema=self._schema))
            self._rows, self._characters = [], 0

    def _close(self) -> None:
        self._writer.close()
        self._sink.close()
        self._lines.close()

    def __enter__(self: "_Writer") -> "_Writer":
        return self

    def __exit__(self, error: type[BaseException] | None, *_: object) -> None:
        if error is None:
            self._flush()
        self._close()
        for ending in self._endings:
            if error is None:
                make_durable(self._unfinished(ending))
                self._unfinished(ending).replace(self._part.with_name(self._part.name + ending))
            else:
                self._unfinished(ending).unlink(missing_ok=True)


class RowPartWriter(PartWriter):
    """Writes the samples of an input, and beside them what duplicates are found by."""

    def __init__(self, part: Path) -> None:
        """Open the files."""
        super().__init__(part, ROW_SCHEMA)
        self._endings.append(".keys")
        self._keys: BinaryIO = self._unfinished(".keys").open("wb")

    def add_sample(self, row: "SampleRow", facts: list[MediaFacts]) -> None:
        """Append a sample whose media are known."""
        columns = media_columns(facts)
        self._add_row(row, columns, None)
        self._add_key(row, [each.digest for each in facts])

    def add_wanting(self, row: "SampleRow", wanted: str) -> None:
        """Append a sample whose media are to be looked up."""
        self._add_row(row, _NO_MEDIA, wanted)
        self._add_key(row, None)

    def _add_row(self, row: "SampleRow", columns: tuple[Any, ...], wanted: str | None) -> None:
        values = (
            row.sample_id, row.messages, row.flags, row.subset, row.roles, row.media_message,
            row.row, *columns, wanted,
        )  # fmt: skip
        self.add(values, len(row.messages) + len(columns[0]) + len(wanted or ""))

    def _add_key(self, row: "SampleRow", digests: list[str] | None) -> None:
        content = hashlib.blake2b(row.messages.encode("utf-8"), digest_size=16).digest()
        if digests is not None:
            content = content_key(content, digests)
        number = row.row.to_bytes(8, "little", signed=True)
        self._keys.write(content + id_hash(row.sample_id) + number)

    def add_batch(self, batch: pa.RecordBatch, keys: np.ndarray) -> None:
        """Append samples as another part has them.

        Args:
            batch: Rows of its table.
            keys: Their keys, of ``KEY_TYPE``.
        """
        self._writer.write(batch)
        self._keys.write(keys.tobytes())

    def _close(self) -> None:
        super()._close()
        self._keys.close()


@dataclass(frozen=True, kw_only=True)
class SampleRow:
    """A sample without its media."""

    row: int
    """Of its file."""
    sample_id: str
    messages: str
    """As the manifest stores them."""
    roles: list[int]
    subset: str
    flags: int
    media_message: list[int]
    """For each medium the message that it stands in."""


def media_columns(facts: list[MediaFacts]) -> tuple[Any, ...]:
    """A sample's values of ``MEDIA_FIELDS``."""
    if not facts:
        return _NO_MEDIA
    media = [each.locator.to_json() for each in facts if each.locator is not None]
    return (
        json.dumps(media, ensure_ascii=False, separators=(",", ":")),
        [KINDS.index(medium["kind"]) for medium in media],
        [each.width for each in facts],
        [each.height for each in facts],
        [each.duration for each in facts],
        [each.fps for each in facts],
        [each.frames for each in facts],
    )


def content_key(messages: bytes, digests: list[str]) -> bytes:
    """16 bytes that stand for a conversation with its media.

    Args:
        messages: 16 bytes that stand for the conversation.
        digests: Of the media, in order.
    """
    return hashlib.blake2b(messages + "".join(digests).encode("ascii"), digest_size=16).digest()


def read_keys(part: Path) -> np.ndarray:
    """The keys of a part's samples, of ``KEY_TYPE``; without the media where these are wanting."""
    return np.fromfile(part.with_name(f"{part.name}.keys"), dtype=KEY_TYPE)


def read_batches(part: Path) -> Iterator[pa.RecordBatch]:
    """The batches of a part's table, one in memory at a time."""
    with pa.OSFile(f"{part}.arrow", "rb") as source, pa.ipc.open_stream(source) as reader:
        yield from reader


def read_ledger(part: Path) -> Iterator[LedgerLine]:
    """The ledger lines of a part, in order."""
    return read_lines(part.with_name(f"{part.name}.ledger"))


def read_lines(path: Path) -> Iterator[LedgerLine]:
    """Ledger lines as ``PartWriter.leave_out`` writes them."""
    with path.open(encoding="utf-8") as lines:
        for line in lines:
            yield LedgerLine(**json.loads(line))
