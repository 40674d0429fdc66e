"""Uncompressed tar shards: media side by side, each read by offset."""

import os
import socket
import tarfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO

from smolvlm2.errors import DataError

MAX_SHARD_BYTES = 4 * 2**30
"""A shard is closed once it holds this many bytes; large files are cheap, huge ones unwieldy."""
_BLOCK = 512
_PIECE = 1 << 20


def _machine() -> str:
    """Where numbers of processes mean something: this machine, or this container on it."""
    try:
        return f"{socket.gethostname()}.{os.stat('/proc/self/ns/pid').st_ino}"
    except OSError:  # no Linux
        return socket.gethostname()


_HOST = _machine()
"""Asked once: a Mac changes its name with the network, perhaps while a file is being written."""
_HEADER = tarfile.TarInfo().tobuf(format=tarfile.USTAR_FORMAT)
"""Of a member without name and size; filling these in is ten times as fast as making it anew."""


def unfinished_name(name: str) -> str:
    """A name for a file that is still being written: two runs never write to the same."""
    return f"{name}.{_HOST}-{os.getpid()}.partial"


def make_durable(path: Path) -> None:
    """Wait until a file is on the disk: raw files are deleted on the strength of it."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def is_abandoned(path: Path) -> bool:
    """Whether the run that wrote an unfinished file on this machine has ended."""
    host, _, process = path.name.removesuffix(".partial").rpartition("-")
    if not path.name.endswith(".partial") or not process.isdigit():
        return False
    if not host.endswith(f".{_HOST}"):
        return False
    try:
        os.kill(int(process), 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return False


class ShardWriter:
    """Writes ``<stem>-00000.tar`` and so on; each is a plain tar that any tool can list.

    Shards get their names when all of them are complete; until then, and after an error, nothing
    under these names has changed.
    """

    def __init__(self, folder: Path, stem: str, max_bytes: int = MAX_SHARD_BYTES) -> None:
        """Nothing is written before the first medium.

        Args:
            folder: Made when needed, in a folder that exists.
            stem: Start of the file names; unique to one input file.
            max_bytes: Size after which the next shard begins.
        """
        self.folder = folder
        self.stem = stem
        self.max_bytes = max_bytes
        self.names: list[str] = []
        """Of the shards, in order."""
        self._file: BinaryIO | None = None
        self._checksums: list[int] = []
        self._checksum = 0

    def add(self, name: str, data: bytes) -> tuple[str, int]:
        """Append one medium.

        Args:
            name: Member name, at most 100 ASCII characters.
            data: Its bytes.

        Returns:
            The shard's file name and the offset of the first byte of ``data``.
        """
        with self.begin(name, len(data)) as member:
            member.write(data)
            member.keep()
        return member.shard, member.offset

    def begin(self, name: str, size: int) -> "ShardMember":
        """Start a medium whose bytes come piece by piece; it stays only when it is kept.

        Args:
            name: Member name, at most 100 ASCII characters.
            size: Bytes that will be written.
        """
        if self._file is not None and self._file.tell() >= self.max_bytes:
            self._end_shard()
        if self._file is None:
            self.folder.mkdir(exist_ok=True)
            self.names.append(f"{self.stem}-{len(self.names):05d}.tar")
            self._file = (self.folder / unfinished_name(self.names[-1])).open("wb+")
            self._checksum = 0
        return ShardMember(self, self._file, tar_header(name, size), size)

    def _end_shard(self) -> None:
        """End the shard in hand; a later medium starts the next one."""
        assert self._file is not None
        self._append(bytes(2 * _BLOCK))
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        self._file = None
        self._checksums.append(self._checksum)

    def _append(self, data: bytes) -> None:
        assert self._file is not None
        self._file.write(data)
        # Cheap, and enough to notice a disk that does not keep what it was given.
        self._checksum = zlib.crc32(data, self._checksum)

    def _cut_back(self, start: int, checksum: int) -> None:
        """Forget everything from ``start`` on; a shard that is empty then is not there at all."""
        assert self._file is not None
        self._file.seek(start)
        self._file.truncate()
        self._checksum = checksum
        if start == 0:
            self._file.close()
            self._file = None
            (self.folder / unfinished_name(self.names.pop())).unlink()

    @property
    def checksums(self) -> dict[str, int]:
        """CRC-32 of the complete shards, by file name; for ``verify_shards``."""
        return dict(zip(self.names, self._checksums, strict=True))

    def close(self) -> None:
        """End the last shard and give all of them their names."""
        if self._file is not None:
            self._end_shard()
        for name in self.names:
            (self.folder / unfinished_name(name)).replace(self.folder / name)

    def __enter__(self) -> "ShardWriter":
        return self

    def __exit__(self, error: type[BaseException] | None, *_: object) -> None:
        if error is None:
            self.close()
            return
        if self._file is not None:
            self._file.close()
        for name in self.names:
            (self.folder / unfinished_name(name)).unlink(missing_ok=True)


def tar_header(name: str, size: int) -> bytes:
    """What stands before a member of a plain tar.

    Args:
        name: At most 100 ASCII characters.
        size: In bytes, below 8 GiB.
    """
    header = bytearray(_HEADER)
    header[: len(name)] = name.encode("ascii")
    header[124:135] = b"%011o" % size
    header[148:156] = b" " * 8
    header[148:155] = b"%06o\0" % sum(header)
    return bytes(header)


def verify_shards(folder: Path, checksums: Mapping[str, int]) -> None:
    """Read complete shards back from the disk.

    Args:
        folder: Of the shards.
        checksums: As ``ShardWriter.checksums`` gave them.

    Raises:
        DataError: A shard holds other bytes than were written.
    """
    for name, checksum in checksums.items():
        path = folder / name
        found = 0
        with path.open("rb", buffering=0) as file:
            if hasattr(os, "posix_fadvise"):
                # Otherwise memory would answer, not the disk.
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            while piece := file.read(_PIECE):
                found = zlib.crc32(piece, found)
        if found != checksum:
            raise DataError(
                f"{path}: reads back other bytes than were written, nothing was deleted; the disk "
                "is failing or full, check it, remove the shard and prepare again"
            )


class ShardMember:
    """One medium on its way into a shard."""

    def __init__(self, shards: ShardWriter, file: BinaryIO, header: bytes, size: int) -> None:
        """Use ``ShardWriter.begin``."""
        self._shards = shards
        self._file = file
        self._start = file.tell()
        self._checksum_before = shards._checksum
        self._left = size
        self._kept = False
        self.size = size
        self.shard = shards.names[-1]
        """File name of the shard."""
        shards._append(header)
        self.offset = file.tell()
        """Of the first byte."""

    @property
    def path(self) -> Path:
        """The shard while it is being written."""
        return self._shards.folder / unfinished_name(self.shard)

    def write(self, data: bytes) -> None:
        """Append a piece; more than was announced is a ValueError, and nothing is written."""
        if len(data) > self._left:
            raise ValueError(f"more than the {self.size} bytes announced")
        self._left -= len(data)
        self._shards._append(data)

    def flush(self) -> None:
        """Let readers of ``path`` see what was written."""
        self._file.flush()

    def keep(self) -> None:
        """Let the medium stay; all its bytes must have been written."""
        if self._left:
            raise ValueError(f"{self._left} of the {self.size} bytes announced are missing")
        self._shards._append(bytes(-self.size % _BLOCK))
        self._kept = True

    def __enter__(self) -> "ShardMember":
        return self

    def __exit__(self, *_: object) -> None:
        if not self._kept:
            self._shards._cut_back(self._start, self._checksum_before)
