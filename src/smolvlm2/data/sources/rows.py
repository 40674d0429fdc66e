"""Rows of parquet and JSON files, one at a time; a bad row does not take its neighbours down."""

import json
import mmap
import re
from collections.abc import Generator, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from smolvlm2.data.ledger import LeftOutError
from smolvlm2.data.media import is_safe_path
from smolvlm2.data.sources.archives import is_hidden
from smolvlm2.data.sources.zip_reader import ZipEntry, ZipError, ZipReader, is_zip
from smolvlm2.errors import DataError

Row = dict[str, Any] | LeftOutError
"""A row, or why it cannot be read."""

BATCH_BYTES = 16 * 2**20
"""Of a parquet file decoded at once: rows may be a line of text or a clip of 15 megabytes."""
BATCH_ROWS = 1024
MAX_ROW_BYTES = 256 * 2**20
"""A row that is a file of its own is read whole."""
_READ_BUFFER = 1 << 20
_RELEASE_BYTES = 64 * 2**20
"""Pages of a JSON file are given back to the system in steps of this size."""
_LOOK_BYTES = 64 * 2**20
"""How far a first object is followed to see whether it is one of several."""
_TOKENS = re.compile(rb'"[^"\\\n]*(?:\\.[^"\\\n]*)*"|[{}\[\]]')
_SCALAR = re.compile(rb"[\w.+-]+")
_FIRST = re.compile(rb"(?:\xef\xbb\xbf)?\s*(.)", re.DOTALL)
_ARROW_ERRORS = (pa.ArrowException, OSError, UnicodeDecodeError)


class UnreadableFileError(Exception):
    """A whole record file cannot be opened; prepare turns it into a ledger line."""


class OtherColumnsError(DataError):
    """A parquet file lacks a column: every row is unreadable, or the folder holds other data."""

    def __init__(self, message: str, detail: str, rows: int) -> None:
        super().__init__(message)
        self.detail = detail
        """For the ledger."""
        self.rows = rows
        """In the file."""


def parquet_rows(
    path: Path, columns: tuple[str, ...], optional: tuple[str, ...] = ()
) -> Iterator[tuple[int, Row]]:
    """Yield number and row of a parquet file; memory stays flat whatever the size of its rows.

    Args:
        path: The file.
        columns: Columns to read; others are ignored.
        optional: Columns to read where the file has them.

    Raises:
        UnreadableFileError: It is no parquet file.
        OtherColumnsError: A column is missing.
    """
    try:
        # With a buffer, a column of a row group is read page by page, not as a whole.
        file = pq.ParquetFile(path, buffer_size=_READ_BUFFER)
    except _ARROW_ERRORS as error:
        raise UnreadableFileError(f"no parquet file ({error})") from error
    with file:
        names = file.schema_arrow.names
        missing = [name for name in columns if name not in names]
        if missing:
            detail = f"column {missing[0]!r} is missing, found {names}"
            message = (
                f"{path}: {detail}; expected the layout of this data set, check that the folder "
                "holds the right one"
            )
            raise OtherColumnsError(message, detail, file.metadata.num_rows)
        wanted = [*columns, *(name for name in optional if name in names)]
        start = 0
        for group in range(file.metadata.num_row_groups):
            count = file.metadata.row_group(group).num_rows
            yield from _group_rows(file, group, wanted, start, count)
            start += count


def _group_rows(
    file: pq.ParquetFile, group: int, columns: list[str], start: int, count: int
) -> Iterator[tuple[int, Row]]:
    done = 0
    size = file.metadata.row_group(group).total_byte_size
    rows = min(max(BATCH_BYTES * count // max(size, 1), 1), BATCH_ROWS)
    try:
        for batch in file.iter_batches(rows, row_groups=[group], columns=columns):
            for row in _batch_rows(batch):
                yield start + done, row
                done += 1
    except _ARROW_ERRORS as error:
        for number in range(start + done, start + count):
            detail = f"row group {group} cannot be decoded ({error})"
            yield number, LeftOutError("unreadable_record", detail)


def _batch_rows(batch: pa.RecordBatch) -> list[Row]:
    try:
        return batch.to_pylist()
    except _ARROW_ERRORS:
        return [_parquet_row(batch, number) for number in range(batch.num_rows)]


def _parquet_row(batch: pa.RecordBatch, number: int) -> Row:
    try:
        return {name: batch.column(name)[number].as_py() for name in batch.schema.names}
    except _ARROW_ERRORS as error:
        return LeftOutError("unreadable_record", f"not valid UTF-8 or damaged ({error})")


def json_rows(path: Path) -> Iterator[tuple[int, Row]]:
    """Yield number and row of a JSON list, of JSON lines, or of an object of objects.

    A list is cut into elements by its brackets and each is parsed on its own: a gigabyte of
    annotations needs the memory of one row, and a bad row stays a matter of that row. In an object
    of objects each value is a row; its key becomes ``id`` where the row has none.

    Raises:
        UnreadableFileError: The file is empty or begins with neither a list nor an object.
    """
    if path.stat().st_size == 0:
        raise UnreadableFileError("the file is empty; expected a JSON list")
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as text:
        first = _FIRST.match(text)
        opening = first.group(1) if first else b""
        if first is None or opening not in (b"[", b"{"):
            raise UnreadableFileError(f"begins with {opening!r}; expected a JSON list")
        start = first.end()
        if opening == b"{" and (path.suffix == ".jsonl" or not _is_one_object(text, start)):
            yield from enumerate(_lines(text, start - 1))
            return
        with closing(_elements(text, start, keyed=opening == b"{")) as elements:
            for number, (key, element) in enumerate(elements):
                yield number, _keyed_row(key, element) if key else _json_row(element)


def _lines(text: mmap.mmap, start: int) -> Iterator[Row]:
    text.seek(start)
    released = 0
    while line := text.readline():
        if line.strip():
            yield _json_row(line)
        released = _release(text, released, text.tell())


def _is_one_object(text: mmap.mmap, start: int) -> bool:
    """Whether the object that opens before ``start`` is the whole file and holds only objects."""
    depth, values = 1, set()
    for token in _TOKENS.finditer(text, start, min(start + _LOOK_BYTES, len(text))):
        mark = token.group()[:1]
        if mark in b"{[":
            if depth == 1:
                values.add(mark)
            depth += 1
        elif mark in b"}]":
            depth -= 1
            if depth == 0:
                return values == {b"{"} and _FIRST.match(text, token.end()) is None
    return len(text) - start > _LOOK_BYTES and values == {b"{"}


def _elements(
    text: mmap.mmap, start: int, *, keyed: bool
) -> Generator[tuple[bytes, bytes], None, None]:
    """Cut the elements of the list or object whose opening bracket ends at ``start``.

    Yields:
        The key of the element, empty in a list, and the element.
    """
    depth, begin, end, released, key = 0, 0, start, 0, b""
    for token in _TOKENS.finditer(text, start):
        mark = token.group()[:1]
        if depth == 0:
            if not keyed:
                yield from ((b"", each) for each in _scalars(text[end : token.start()]))
            elif key and mark not in b"{[":
                yield b"", key  # its value is neither a list nor an object
                key = b""
            begin, end = token.start(), token.end()
            if mark in b"}]":
                return
            if mark == b'"' and keyed:
                key = token.group()
            elif mark == b'"':
                yield b"", token.group()
        if mark in b"{[":
            depth += 1
        elif mark in b"}]":
            depth -= 1
            if depth == 0:
                end = token.end()
                yield key, text[begin:end]
                key = b""
                released = _release(text, released, end)
    # The end is missing: what was left open is one more, unreadable, row.
    yield b"", text[begin if depth else len(text) :]


def _scalars(gap: bytes) -> list[bytes]:
    """Numbers and words between two elements: rows that are no objects."""
    return [each for each in gap.replace(b",", b" ").split() if _SCALAR.fullmatch(each)]


def _release(text: mmap.mmap, released: int, done: int) -> int:
    """Give pages that were read back to the system, in large steps; returns up to where."""
    if done - released < _RELEASE_BYTES or not hasattr(mmap, "MADV_DONTNEED"):
        return released
    end = done // mmap.PAGESIZE * mmap.PAGESIZE
    text.madvise(mmap.MADV_DONTNEED, released, end - released)
    return end


def _keyed_row(key: bytes, element: bytes) -> Row:
    row = _json_row(element)
    name = _json_value(key)
    if isinstance(row, dict) and isinstance(name, str):
        row.setdefault("id", name)
    return row


def _json_row(element: bytes) -> Row:
    row = _json_value(element)
    if not isinstance(row, dict | LeftOutError):
        return LeftOutError("unreadable_record", f"a {type(row).__name__}; expected an object")
    return row


def _json_value(element: bytes) -> Any:
    try:
        return json.loads(element.decode("utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        shown = element[:80].decode("utf-8", "replace")
        return LeftOutError("unreadable_record", f"no JSON ({error}): {shown!r}")


def json_file_rows(path: Path) -> Iterator[tuple[int, str | None, Row]]:
    """Yield number, name and row where every ``.json`` file of a folder or a zip is one row.

    A plain file is read as ``json_rows`` reads it; its rows have no name.

    Raises:
        UnreadableFileError: The zip cannot be opened.
    """
    if path.is_dir():
        names = sorted(file.relative_to(path).as_posix() for file in path.rglob("*.json"))
        for number, name in enumerate(name for name in names if not is_hidden(name)):
            yield number, name, _file_row(path, name)
    elif is_zip(path):
        try:
            with closing(ZipReader(path)) as archive:
                found = (each for each in archive.entries() if each.name.endswith(".json"))
                entries = sorted((e for e in found if not is_hidden(e.name)), key=lambda e: e.name)
                for number, entry in enumerate(entries):
                    yield number, entry.name, _zip_row(archive, entry)
        except ZipError as error:
            raise UnreadableFileError(f"the zip cannot be read ({error})") from error
    else:
        for number, row in json_rows(path):
            yield number, None, row


def _file_row(folder: Path, name: str) -> Row:
    if (folder / name).is_symlink():
        return LeftOutError("unsafe_path", f"{name!r} is a link; expected a plain file")
    try:
        return _one_row((folder / name).read_bytes())
    except OSError as error:
        return LeftOutError("unreadable_record", f"cannot be read ({error})")


def _zip_row(archive: ZipReader, entry: ZipEntry) -> Row:
    if not entry.is_plain or not is_safe_path(entry.name):
        return LeftOutError("unsafe_path", f"member {entry.name!r} is no plain file below the zip")
    if entry.size > MAX_ROW_BYTES:
        return LeftOutError("unreadable_record", f"{entry.size} bytes; expected a row")
    try:
        return _one_row(b"".join(archive.pieces(entry)))
    except ZipError as error:
        return LeftOutError("unreadable_record", f"member cannot be read ({error})")


def _one_row(data: bytes) -> Row:
    return _json_row(data.removeprefix(b"\xef\xbb\xbf"))
