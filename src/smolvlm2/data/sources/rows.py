"""Rows of parquet and JSON files, one at a time; a bad row does not take its neighbours down."""

import json
import mmap
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from smolvlm2.data.ledger import LeftOutError
from smolvlm2.errors import DataError

Row = dict[str, Any] | LeftOutError
"""A row, or why it cannot be read."""

BATCH_ROWS = 64
"""Rows decoded at once: enough to be fast, few enough for pages of megabytes each."""
_TOKENS = re.compile(rb'"[^"\\\n]*(?:\\.[^"\\\n]*)*"|[{}\[\]]')
_ARROW_ERRORS = (pa.ArrowException, OSError, UnicodeDecodeError)


class UnreadableFileError(Exception):
    """A whole record file cannot be opened; prepare turns it into a ledger line."""


def parquet_rows(
    path: Path, columns: tuple[str, ...], optional: tuple[str, ...] = ()
) -> Iterator[tuple[int, Row]]:
    """Yield number and row of a parquet file.

    Args:
        path: The file.
        columns: Columns to read; others are ignored.
        optional: Columns to read where the file has them.

    Raises:
        UnreadableFileError: It is no parquet file.
        DataError: A column is missing.
    """
    try:
        file = pq.ParquetFile(path)
    except _ARROW_ERRORS as error:
        raise UnreadableFileError(f"no parquet file ({error})") from error
    with file:
        missing = [name for name in columns if name not in file.schema_arrow.names]
        if missing:
            raise DataError(
                f"{path}: column {missing[0]!r} is missing, found {file.schema_arrow.names}; "
                "expected the layout of this data set, check that the folder holds the right one"
            )
        columns += tuple(name for name in optional if name in file.schema_arrow.names)
        start = 0
        for group in range(file.metadata.num_row_groups):
            count = file.metadata.row_group(group).num_rows
            yield from _group_rows(file, group, columns, start, count)
            start += count


def _group_rows(
    file: pq.ParquetFile, group: int, columns: tuple[str, ...], start: int, count: int
) -> Iterator[tuple[int, Row]]:
    done = 0
    try:
        for batch in file.iter_batches(BATCH_ROWS, row_groups=[group], columns=list(columns)):
            for number in range(batch.num_rows):
                yield start + done, _parquet_row(batch, number)
                done += 1
    except _ARROW_ERRORS as error:
        for number in range(start + done, start + count):
            detail = f"row group {group} cannot be decoded ({error})"
            yield number, LeftOutError("unreadable_record", detail)


def _parquet_row(batch: pa.RecordBatch, number: int) -> Row:
    try:
        return {name: batch.column(name)[number].as_py() for name in batch.schema.names}
    except _ARROW_ERRORS as error:
        return LeftOutError("unreadable_record", f"not valid UTF-8 or damaged ({error})")


def json_rows(path: Path) -> Iterator[tuple[int, Row]]:
    """Yield number and row of a JSON list, or of JSON lines.

    A list is cut into elements by its brackets and each is parsed on its own: a gigabyte of
    annotations needs the memory of one row, and a bad row stays a matter of that row.

    Raises:
        UnreadableFileError: The file is empty or begins with neither a list nor an object.
    """
    if path.stat().st_size == 0:
        raise UnreadableFileError("the file is empty; expected a JSON list")
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as text:
        first = re.compile(rb"(?:\xef\xbb\xbf)?\s*(.)", re.DOTALL).match(text)
        opening = first.group(1) if first else b""
        if opening == b"[":
            assert first is not None
            elements = _list_elements(text, first.end())
        elif opening == b"{":
            elements = (line for line in iter(text.readline, b"") if line.strip())
        else:
            raise UnreadableFileError(f"begins with {opening!r}; expected a JSON list")
        for number, element in enumerate(elements):
            yield number, _json_row(element)


def _list_elements(text: mmap.mmap, start: int) -> Iterator[bytes]:
    """Cut the elements of the list whose opening bracket ends at ``start``."""
    depth, begin = 0, None
    for token in _TOKENS.finditer(text, start):
        mark = token.group()[:1]
        if mark in b"{[":
            if depth == 0:
                begin = token.start()
            depth += 1
        elif mark in b"}]":
            if depth == 0:
                return
            depth -= 1
            if depth == 0:
                yield text[begin : token.end()]
        elif depth == 0:
            yield token.group()
    # The list is not closed: what was left open is one more, unreadable, row.
    yield text[begin if depth else len(text) :]


def _json_row(element: bytes) -> Row:
    try:
        row = json.loads(element.decode("utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        shown = element[:80].decode("utf-8", "replace")
        return LeftOutError("unreadable_record", f"no JSON ({error}): {shown!r}")
    if not isinstance(row, dict):
        return LeftOutError("unreadable_record", f"a {type(row).__name__}; expected an object")
    return row
