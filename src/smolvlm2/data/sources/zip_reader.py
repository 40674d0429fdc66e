"""Zip files, whole or split into parts, read member by member as a stream.

Python's ``zipfile`` keeps an object for each member and refuses archives in several parts
(M4-Instruct has one); a directory is read here entry by entry, and a member in pieces.

Source:
    PKWARE's APPNOTE, sections 4.3 (records), 4.4 (fields), 4.5.3 (zip64), 8 (parts).
"""

import glob
import io
import struct
import zlib
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

PIECE = 1 << 20
"""Bytes of a member that are in memory at a time."""
_BUFFER = 1 << 17
STORED, DEFLATED = 0, 8
_END = struct.Struct("<4s4H2LH")
_LOCATOR_64 = struct.Struct("<4sLQL")
_END_64 = struct.Struct("<4sQ2H2L4Q")
_ENTRY = struct.Struct("<4s6H3L5H2L")
_LOCAL_BYTES = 30
_FULL_16, _FULL_32 = 0xFFFF, 0xFFFFFFFF


class ZipError(Exception):
    """A zip, or a member of one, that cannot be read."""


@dataclass(frozen=True, kw_only=True)
class ZipEntry:
    """One line of the directory."""

    name: str
    """As in the archive."""
    method: int
    """0 stored, 8 deflated."""
    encrypted: bool
    crc: int
    packed: int
    """Bytes in the archive."""
    size: int
    """Bytes unpacked, as promised."""
    start: int
    """Of the local header, counted from the first byte of the first part."""
    mode: int
    """Unix type and permissions; 0 where the archive was made elsewhere."""

    @property
    def is_folder(self) -> bool:
        """Whether it is only a folder's name."""
        return self.name.endswith("/")

    @property
    def is_plain(self) -> bool:
        """Whether it is a file, neither a link nor a device."""
        return self.mode & 0o170000 in (0, 0o100000)


class JoinedFile(io.RawIOBase):
    """The parts of a split archive as one file."""

    def __init__(self, paths: list[Path]) -> None:
        """Open all parts.

        Args:
            paths: In order.
        """
        self._files: list[BinaryIO] = []
        self.starts = [0]
        """First byte of each part, and the end of the last."""
        for path in paths:
            self._files.append(path.open("rb", buffering=0))
            self.starts.append(self.starts[-1] + path.stat().st_size)
        self._at = 0

    def readable(self) -> bool:
        """True."""
        return True

    def seekable(self) -> bool:
        """True."""
        return True

    def tell(self) -> int:
        """Position, in bytes."""
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move to a byte."""
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self.starts[-1]}[whence]
        self._at = start + offset
        return self._at

    def readinto(self, buffer: Any) -> int:
        """Fill ``buffer`` from one part."""
        if self._at >= self.starts[-1]:
            return 0
        part = bisect_right(self.starts, self._at) - 1
        view = memoryview(buffer).cast("B")[: self.starts[part + 1] - self._at]
        self._files[part].seek(self._at - self.starts[part])
        read = self._files[part].readinto(view) or 0  # type: ignore[attr-defined]
        self._at += read
        return int(read)

    def close(self) -> None:
        """Close all parts."""
        for file in self._files:
            file.close()
        super().close()


def split_parts(path: Path) -> list[Path]:
    """The parts of an archive in order: ``x.z01``, ``x.z02``, ..., ``x.zip``.

    Raises:
        ZipError: A part is missing; names it.
    """
    known = [
        int(part.suffix[2:])
        for part in path.parent.glob(f"{glob.escape(path.stem)}.z[0-9]*")
        if part.suffix[2:].isdigit()
    ]
    if path.is_file():
        disk = _find_end(path)[1].disk
        count = disk if disk != _FULL_16 else 0  # a zip64 archive need not say it here
    elif known:
        count = max(known)
    else:
        raise ZipError(f"{path.name} is missing")
    parts = [path.with_suffix(f".z{number:02d}") for number in range(1, count + 1)] + [path]
    for part in parts:
        if not part.is_file():
            raise ZipError(f"part {part.name} of {len(parts)} is missing; fetch it")
    return parts


@dataclass(frozen=True, kw_only=True)
class _End:
    disk: int
    first_disk: int
    entries: int
    size: int
    offset: int


def _find_end(path: Path) -> tuple[int, _End]:
    """The last record and where it is."""
    with path.open("rb") as file:
        length = file.seek(0, io.SEEK_END)
        window = min(length, _END.size + _FULL_16)
        file.seek(length - window)
        tail = file.read(window)
    place = tail.rfind(b"PK\5\6")
    if place < 0 or len(tail) - place < _END.size:
        raise ZipError("no directory at the end: not a zip, or cut off")
    _, disk, first, _, entries, size, offset, _ = _END.unpack_from(tail, place)
    end = _End(disk=disk, first_disk=first, entries=entries, size=size, offset=offset)
    return length - window + place, end


def is_zip(path: Path) -> bool:
    """Whether the file ends as a zip does."""
    try:
        _find_end(path)
    except ZipError:
        return False
    return True


class ZipReader:
    """An open archive."""

    def __init__(self, path: Path) -> None:
        """Open all parts and find the directory.

        Raises:
            ZipError: Not a zip, cut off, or a part is missing.
        """
        self.parts = split_parts(path)
        self._joined = JoinedFile(self.parts)
        self._data = io.BufferedReader(self._joined, _BUFFER)
        # A second handle, so that reading members does not throw the directory's buffer away.
        self._listing = io.BufferedReader(JoinedFile(self.parts), _BUFFER)
        place, end = _find_end(path)
        place += self._joined.starts[-2]
        if _FULL_16 in (end.disk, end.entries) or _FULL_32 in (end.size, end.offset):
            place, end = self._end_64(place, end)
        self._directory = place - end.size
        if self._directory < 0 or end.first_disk >= len(self.parts):
            raise ZipError("the directory lies outside the archive; it is cut off or damaged")
        self._entries = end.entries
        # Bytes in front of a whole archive (a program that unpacks it) move every offset.
        announced = self._joined.starts[end.first_disk] + end.offset
        self._shift = self._directory - announced if len(self.parts) == 1 else 0

    def _end_64(self, place: int, end: _End) -> tuple[int, _End]:
        if place < _LOCATOR_64.size:
            return place, end
        mark, disk, offset, _ = _LOCATOR_64.unpack(
            _read_at(self._listing, place - _LOCATOR_64.size, _LOCATOR_64.size)
        )
        if mark != b"PK\6\7":
            return place, end  # the numbers happen to be that large
        announced = self._joined.starts[min(disk, len(self.parts) - 1)] + offset
        for start in (announced, place - _LOCATOR_64.size - _END_64.size):
            data = _read_at(self._listing, start, _END_64.size) if start >= 0 else b""
            if data[:4] == b"PK\6\6" and len(data) == _END_64.size:
                _, _, _, _, disk, first, _, entries, size, offset = _END_64.unpack(data)
                found = _End(disk=disk, first_disk=first, entries=entries, size=size, offset=offset)
                return start, found
        raise ZipError("the zip64 directory is not where the archive says")

    def entries(self) -> Iterator[ZipEntry]:
        """Read the directory.

        Raises:
            ZipError: It is damaged or shorter than announced.
        """
        at = self._directory
        for number in range(self._entries):
            fixed = _read_at(self._listing, at, _ENTRY.size)
            if len(fixed) < _ENTRY.size or fixed[:4] != b"PK\1\2":
                raise ZipError(f"the directory is damaged at entry {number} of {self._entries}")
            values = _ENTRY.unpack(fixed)
            lengths = values[10:13]
            rest = _read_at(self._listing, at + _ENTRY.size, sum(lengths))
            at += _ENTRY.size + sum(lengths)
            yield self._entry(values, rest[: lengths[0]], rest[lengths[0] : sum(lengths[:2])])

    def _entry(self, values: tuple[Any, ...], name: bytes, extra: bytes) -> ZipEntry:
        _, made, _, flags, method, _, _, crc, packed, size, _, _, _, disk, _, mode, offset = values
        wide = iter(_extra_64(extra))
        size = next(wide, size) if size == _FULL_32 else size
        packed = next(wide, packed) if packed == _FULL_32 else packed
        offset = next(wide, offset) if offset == _FULL_32 else offset
        disk = next(wide, disk) & _FULL_32 if disk == _FULL_16 else disk
        if disk >= len(self.parts):
            raise ZipError(f"a member lies in part {disk + 1} of {len(self.parts)}")
        return ZipEntry(
            name=_decode(name, utf8=bool(flags & 0x800)),
            method=method,
            encrypted=bool(flags & 1),
            crc=crc,
            packed=packed,
            size=size,
            start=self._joined.starts[disk] + offset + self._shift,
            mode=mode >> 16 if made >> 8 == 3 else 0,
        )

    def data_start(self, entry: ZipEntry) -> int:
        """Where the packed bytes begin, counted from the first byte of the first part.

        Raises:
            ZipError: There is no member at the place.
        """
        local = _read_at(self._data, entry.start, _LOCAL_BYTES)
        if len(local) < _LOCAL_BYTES or local[:4] != b"PK\3\4":
            raise ZipError("no member where the directory says; the archive is damaged")
        # The local header repeats name and extra field, with lengths of its own.
        name, extra = struct.unpack_from("<2H", local, 26)
        return entry.start + _LOCAL_BYTES + int(name) + int(extra)

    def pieces(self, entry: ZipEntry) -> Iterator[bytes]:
        """The unpacked bytes, never more than the directory promises.

        Raises:
            ZipError: Cut off, damaged, encrypted, larger than promised, or packed in another way.
        """
        if entry.encrypted:
            raise ZipError("encrypted; expected a member that opens without a password")
        if entry.method not in (STORED, DEFLATED):
            raise ZipError(f"packed by method {entry.method}; expected stored (0) or deflated (8)")
        packed = self._packed(entry)
        crc = total = 0
        for piece in packed if entry.method == STORED else _inflate(packed):
            total += len(piece)
            if total > entry.size:
                raise ZipError(f"unpacks to more than the {entry.size} bytes that it promises")
            crc = zlib.crc32(piece, crc)
            yield piece
        if total != entry.size or crc != entry.crc:
            raise ZipError(f"damaged: {total} of {entry.size} bytes, or a wrong checksum")

    def _packed(self, entry: ZipEntry) -> Iterator[bytes]:
        at, left = self.data_start(entry), entry.packed
        while left:
            piece = _read_at(self._data, at, min(left, PIECE))
            if not piece:
                raise ZipError(f"the archive ends {left} bytes early")
            yield piece
            at, left = at + len(piece), left - len(piece)

    def close(self) -> None:
        """Close all parts."""
        self._data.close()
        self._listing.close()


def _read_at(file: BinaryIO, place: int, size: int) -> bytes:
    file.seek(place)
    return file.read(size)


def _inflate(packed: Iterator[bytes]) -> Iterator[bytes]:
    machine = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        for piece in packed:
            while piece:
                if data := machine.decompress(piece, PIECE):
                    yield data
                piece = machine.unconsumed_tail
        while data := machine.decompress(machine.unconsumed_tail, PIECE):
            yield data
        if data := machine.flush():
            yield data
    except zlib.error as error:
        raise ZipError(f"damaged ({error})") from error


def _extra_64(extra: bytes) -> list[int]:
    """The numbers of the zip64 field that did not fit their places."""
    while len(extra) >= 4:
        kind, size = struct.unpack_from("<2H", extra)
        field, extra = extra[4 : 4 + size], extra[4 + size :]
        if kind == 1:
            whole = [value for (value,) in struct.iter_unpack("<Q", field[: len(field) // 8 * 8])]
            tail = field[len(whole) * 8 :]
            return whole + ([int.from_bytes(tail, "little")] if len(tail) == 4 else [])
    return []


def _decode(name: bytes, *, utf8: bool) -> str:
    """A member's name; most archives made on Unix hold UTF-8 without saying so."""
    try:
        return name.decode("utf-8")
    except UnicodeDecodeError:
        return name.decode("utf-8", "backslashreplace") if utf8 else name.decode("cp437")
