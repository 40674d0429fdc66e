"""Rows of parquet files, and of files that are one row; bad ones leave their neighbours alone."""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from smolvlm2.data.disk_errors import is_of_machine
from smolvlm2.data.ledger import DamagedFileError, LeftOutError
from smolvlm2.data.media import is_safe_path
from smolvlm2.data.sources.archives import is_hidden
from smolvlm2.data.sources.json_rows import Row, UnreadableFileError, json_row, json_rows
from smolvlm2.data.sources.zip_reader import ZipEntry, ZipError, ZipReader, is_zip
from smolvlm2.errors import DataError

BATCH_BYTES = 16 * 2**20
"""Of a parquet file decoded at once: rows may be a line of text or a clip of 15 megabytes."""
BATCH_ROWS = 1024
MAX_ROW_BYTES = 256 * 2**20
"""A row that is a file of its own is read whole."""
_READ_BUFFER = 1 << 20
_ARROW_ERRORS = (pa.ArrowException, OSError, UnicodeDecodeError)
_VALUE_ERRORS = (*_ARROW_ERRORS, ValueError, OverflowError)
"""What a value may raise that Python cannot hold: a time in the year 146,000."""


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
        OSError: The system does not let it be read (`is_of_machine`).
    """
    try:
        # With a buffer, a column of a row group is read page by page, not as a whole.
        file = pq.ParquetFile(path, buffer_size=_READ_BUFFER)
    except _ARROW_ERRORS as error:
        if is_of_machine(error):
            raise
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
        if is_of_machine(error):
            raise
        for number in range(start + done, start + count):
            detail = f"row group {group} cannot be decoded ({error})"
            yield number, DamagedFileError("unreadable_record", detail)


def _batch_rows(batch: pa.RecordBatch) -> list[Row]:
    try:
        return batch.to_pylist()
    except _VALUE_ERRORS:
        return [_parquet_row(batch, number) for number in range(batch.num_rows)]


def _parquet_row(batch: pa.RecordBatch, number: int) -> Row:
    try:
        return {name: batch.column(name)[number].as_py() for name in batch.schema.names}
    except _VALUE_ERRORS as error:
        return LeftOutError("unreadable_record", f"not valid UTF-8 or damaged ({error})")


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
    return _one_row((folder / name).read_bytes())


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
    return json_row(data.removeprefix(b"\xef\xbb\xbf"))
