"""Rows of JSON files of any size, one at a time; a bad row does not take its neighbours down.

A window of the file is decoded and Python's own scanner takes one row after the other off it. What
the scanner does not take is cut off by its brackets: that finds the end of a damaged row, and of
one larger than a window.
"""

import json
import mmap
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from smolvlm2.data.ledger import LeftOutError

Row = dict[str, Any] | LeftOutError
"""A row, or why it cannot be read."""

_SMALL_WINDOW, _LARGE_WINDOW = 1 << 16, 1 << 22
"""Bytes decoded at once: little behind a bad row, since there may be more, and twice as much with
every window without one."""
_RELEASE_BYTES = 64 * 2**20
"""Pages of a file are given back to the system in steps of this size."""
_LOOK_BYTES = 64 * 2**20
"""How far a first object is followed to see whether it is one of several."""
_TOKENS = re.compile(rb'"[^"\\\n]*(?:\\.[^"\\\n]*)*"|[{}\[\]]')
_SCALAR = re.compile(rb"[\w.+-]+")
_FIRST = re.compile(rb"(?:\xef\xbb\xbf)?\s*(\S)")
_BEHIND = re.compile(rb"[\s,]*[\]}]\s*\S")
_GAP = re.compile(r"[\s,]*")
_COLON = re.compile(r"\s*:\s*")
_JSON_ERRORS = (ValueError, RecursionError)
_scan = json.JSONDecoder().raw_decode


class UnreadableFileError(Exception):
    """A whole record file cannot be opened; prepare turns it into a ledger line."""


def json_rows(path: Path) -> Iterator[tuple[int, Row]]:
    """Yield number and row of a JSON list, of JSON lines, or of an object of objects.

    In an object of objects each value is a row; its key becomes ``id`` where the row has none.

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
        keyed = opening == b"{"
        if keyed and (
            path.suffix.lower() in (".jsonl", ".ndjson") or not _is_one_object(text, start)
        ):
            yield from enumerate(_lines(text, start - 1))
        else:
            yield from enumerate(_Elements(text, start, keyed=keyed).rows())


def json_row(element: bytes) -> Row:
    """Parse one row."""
    row = _json_value(element)
    if not isinstance(row, dict | LeftOutError):
        return LeftOutError("unreadable_record", f"a {type(row).__name__}; expected an object")
    return row


def _json_value(element: bytes) -> Any:
    try:
        return json.loads(element.decode("utf-8"))
    except _JSON_ERRORS as error:
        shown = element[:80].decode("utf-8", "replace")
        return LeftOutError("unreadable_record", f"no JSON ({error}): {shown!r}")


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


def _lines(text: mmap.mmap, start: int) -> Iterator[Row]:
    text.seek(start)
    released = 0
    while line := text.readline():
        if line.strip():
            yield json_row(line)
        released = _release(text, released, text.tell())


def _release(text: mmap.mmap, released: int, done: int) -> int:
    """Give pages that were read back to the system, in large steps; returns up to where."""
    if done - released < _RELEASE_BYTES or not hasattr(mmap, "MADV_DONTNEED"):
        return released
    end = done // mmap.PAGESIZE * mmap.PAGESIZE
    text.madvise(mmap.MADV_DONTNEED, released, end - released)
    return end


class _Elements:
    """The elements of a list, or of an object of objects."""

    def __init__(self, text: mmap.mmap, start: int, *, keyed: bool) -> None:
        """Begin behind the opening bracket.

        Args:
            text: The file.
            start: Place of the byte after the bracket.
            keyed: Whether it is an object.
        """
        self._text = text
        self._at = start
        self._keyed = keyed
        self._window_bytes = _LARGE_WINDOW
        self._ended = False

    def rows(self) -> Iterator[Row]:
        """Every element as a row, and one more for what stands behind the last."""
        released = 0
        while not self._ended:
            before = self._at
            yield from self._scanned()
            if self._at == before and not self._ended:
                yield from self._cut()
                self._window_bytes = _SMALL_WINDOW
            else:
                self._window_bytes = min(2 * self._window_bytes, _LARGE_WINDOW)
            released = _release(self._text, released, self._at)
        if _BEHIND.match(self._text, self._at):
            detail = "more stands behind the end of the list; expected the end of the file"
            yield LeftOutError("unreadable_record", detail)

    def _scanned(self) -> Iterator[Row]:
        """Rows that the scanner takes off the next window; it stops before what it cannot take."""
        data = self._text[self._at : self._at + self._window_bytes]
        try:
            text = data.decode("utf-8")
        except UnicodeDecodeError as error:
            # Up to a damaged byte, or to a character that the window's end cuts in two.
            text = data[: error.start].decode("utf-8")
        place = begin = 0
        try:
            while True:
                begin = _GAP.match(text, place).end()  # type: ignore[union-attr]
                row, end = self._scan_one(text, begin)
                self._at += len(text[place:end].encode("utf-8"))
                place = end
                yield row
        except _JSON_ERRORS:
            self._ended = text[begin : begin + 1] == ("}" if self._keyed else "]")

    def _scan_one(self, text: str, begin: int) -> tuple[dict[str, Any], int]:
        """One row and its end.

        Raises:
            ValueError: There is no whole object here.
        """
        key = None
        if self._keyed:
            key, end = _scan(text, begin)
            colon = _COLON.match(text, end)
            if not isinstance(key, str) or colon is None:
                raise ValueError("no key")
            begin = colon.end()
        if text[begin : begin + 1] != "{":
            raise ValueError("no object")
        row, end = _scan(text, begin)
        if key is not None:
            row.setdefault("id", key)
        return row, end

    def _cut(self) -> Iterator[Row]:
        """The next element, by its brackets; goes on behind it."""
        text, depth, begin, end, key = self._text, 0, 0, self._at, b""
        for token in _TOKENS.finditer(text, self._at):
            mark = token.group()[:1]
            if depth == 0:
                if not self._keyed and (scalars := _scalars(text[end : token.start()])):
                    self._at = token.start()
                    yield from map(json_row, scalars)
                    return
                if key and mark not in b"{[":
                    self._at = token.start()
                    yield json_row(key)  # its value is neither a list nor an object
                    return
                begin, end = token.start(), token.end()
                if mark in b"}]":
                    self._ended = True
                    return
                if mark == b'"' and self._keyed:
                    key = token.group()
                elif mark == b'"':
                    self._at = end
                    yield json_row(token.group())
                    return
            if mark in b"{[":
                depth += 1
            elif mark in b"}]":
                depth -= 1
                if depth == 0:
                    self._at = token.end()
                    yield _named(key, json_row(text[begin : token.end()]))
                    return
        # The end is missing: what was left open is one more, unreadable, row.
        self._ended = True
        yield json_row(text[begin if depth else len(text) :])


def _named(key: bytes, row: Row) -> Row:
    name = _json_value(key) if key else None
    if isinstance(row, dict) and isinstance(name, str):
        row.setdefault("id", name)
    return row


def _scalars(gap: bytes) -> list[bytes]:
    """Numbers and words between two elements: rows that are no objects."""
    return [each for each in gap.replace(b",", b" ").split() if _SCALAR.fullmatch(each)]
