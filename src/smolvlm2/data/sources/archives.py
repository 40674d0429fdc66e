"""Media files in zips, tars and folders, as streams: nothing is ever unpacked to a path."""

import bz2
import gzip
import lzma
import tarfile
import zlib
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from dataclasses import dataclass
from io import BufferedIOBase
from pathlib import Path, PurePosixPath

from smolvlm2.data.disk_errors import is_of_machine
from smolvlm2.data.ledger import LeftOutError
from smolvlm2.data.media import is_safe_path
from smolvlm2.data.sources.zip_reader import PIECE, STORED, ZipEntry, ZipError, ZipReader, is_zip

MAX_MEMBER_BYTES = 4 * 2**30
"""Larger members are refused: no clip of these data sets comes near."""
MAX_RATIO = 100
"""Packed media hardly shrink; a large member that does is a bomb."""
_RATIO_FROM = 16 * 2**20
"""Members up to this size are read whatever their ratio: a blank page shrinks a lot."""
_READ_ERRORS = (
    ZipError,
    tarfile.TarError,
    gzip.BadGzipFile,
    lzma.LZMAError,
    zlib.error,
    EOFError,
    OSError,
    ValueError,  # bz2, and numbers in tar headers that are none
)
_SUFFIXES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
_PACKED_TARS: tuple[tuple[bytes, Callable[[Path], BufferedIOBase]], ...] = (
    (b"\x1f\x8b", gzip.GzipFile),
    (b"BZh", bz2.BZ2File),
    (b"\xfd7zXZ\0", lzma.LZMAFile),
)


class _StrictTarInfo(tarfile.TarInfo):
    """A header that has to be one: ``tarfile`` takes a damaged one for the end of the archive."""

    @classmethod
    def fromtarfile(cls, tarfile_: tarfile.TarFile) -> "_StrictTarInfo":
        try:
            return super().fromtarfile(tarfile_)
        except tarfile.EOFHeaderError:  # type: ignore[attr-defined]
            raise  # the mark of the end
        except tarfile.HeaderError as error:
            raise tarfile.ReadError(f"{error}, at byte {tarfile_.offset}") from error


class _UnpackedTar:
    """Gives all that unpacks before it says what is wrong."""

    def __init__(self, stream: BufferedIOBase) -> None:
        self._stream = stream

    def read(self, size: int) -> bytes:
        return self._stream.read1(size)


class BrokenMemberError(Exception):
    """A member turned out to be unreadable while its pieces were read."""


@dataclass(frozen=True, kw_only=True)
class Member:
    """One file of an archive."""

    name: str
    """As in the archive."""
    size: int
    """Bytes, as promised; the pieces are never more."""
    pieces: Iterator[bytes]
    """Its bytes, to be read before the next member is asked for, or not at all. May raise
    ``BrokenMemberError``; its neighbours can be read all the same."""
    offset: int | None
    """Where the bytes lie in the archive; None when they are packed there, or in several parts."""


@dataclass(frozen=True, kw_only=True)
class BadMember:
    """One file of an archive that is left out, or the rest of the archive."""

    name: str | None
    """As in the archive; None for the archive itself."""
    problem: LeftOutError
    """Why."""


def is_archive(path: Path) -> bool:
    """Whether the file is named like a zip or tar; its bytes decide when it is read."""
    return path.name.lower().endswith(_SUFFIXES)


def archive_members(path: Path) -> Generator[Member | BadMember, None, None]:
    """Yield every file of a zip or tar in archive order; folders are passed over.

    Unsafe names, links and devices are reported and never followed; a damaged member does not
    hide others.

    Args:
        path: The archive; of a split zip the last part, ``x.zip``, which may be missing.

    Raises:
        OSError: The system does not let it be read (`is_of_machine`).
    """
    try:
        if _is_tar(path):
            yield from _tar_members(path)
        else:
            yield from _zip_members(path)
    except _READ_ERRORS as error:
        if is_of_machine(error):
            raise
        detail = f"the archive cannot be read to its end ({type(error).__name__}: {error})"
        yield BadMember(name=None, problem=LeftOutError("corrupt_media", detail))


def _is_tar(path: Path) -> bool:
    """By its bytes; tars from before 1988 have no mark and are what is left."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        start = file.read(512)
    if start.startswith(tuple(mark for mark, _ in _PACKED_TARS)) or start[257:262] == b"ustar":
        return True
    return not start.startswith(b"PK") and not is_zip(path)


def _zip_members(path: Path) -> Iterator[Member | BadMember]:
    with closing(ZipReader(path)) as archive:
        for entry in archive.entries():
            if entry.is_folder:
                continue
            if problem := _refusal(entry.name, entry.is_plain, entry.size):
                yield BadMember(name=entry.name, problem=problem)
            elif entry.size > max(_RATIO_FROM, MAX_RATIO * entry.packed):
                detail = (
                    f"{entry.packed} bytes that promise to become {entry.size}; expected at most "
                    f"{MAX_RATIO} times as many"
                )
                problem = LeftOutError("unsupported_media", detail)
                yield BadMember(name=entry.name, problem=problem)
            else:
                yield _zip_member(archive, entry)


def _zip_member(archive: ZipReader, entry: ZipEntry) -> Member | BadMember:
    offset = None
    if entry.method == STORED and not entry.encrypted and len(archive.parts) == 1:
        try:
            offset = archive.data_start(entry)
        except ZipError as error:
            problem = LeftOutError("corrupt_media", str(error))
            return BadMember(name=entry.name, problem=problem)
    return Member(
        name=entry.name,
        size=entry.size,
        pieces=_guarded(archive.pieces(entry)),
        offset=offset,
    )


def _tar_members(path: Path) -> Iterator[Member | BadMember]:
    with path.open("rb") as file:
        start = file.read(6)
    unpack = next((each for mark, each in _PACKED_TARS if start.startswith(mark)), None)
    # Unpacked by their own readers: tarfile's compares no checksums and stops at the first of
    # several streams. Read once from front to back: going back means starting again.
    mode = "r:" if unpack is None else "r|"
    with (
        path.open("rb") if unpack is None else unpack(path) as stream,
        tarfile.open(  # type: ignore[call-overload]
            fileobj=_UnpackedTar(stream) if unpack else stream,
            mode=mode,
            bufsize=PIECE,
            tarinfo=_StrictTarInfo,
        ) as archive,
    ):
        while (info := archive.next()) is not None:
            # The library keeps every member for later; a million of them are gigabytes.
            archive.members = []
            if info.isdir():
                continue
            if problem := _refusal(info.name, info.isreg(), info.size):
                yield BadMember(name=info.name, problem=problem)
                continue
            in_place = unpack is None and not info.issparse()
            yield Member(
                name=info.name,
                size=info.size,
                pieces=_guarded(_tar_pieces(archive, info)),
                offset=info.offset_data if in_place else None,
            )
        _expect_end(archive)


def _expect_end(archive: tarfile.TarFile) -> None:
    """Read what stands behind the mark of the end: zeros, and the checksum of a packed tar.

    Raises:
        ReadError: More members: a hole in the file looks like the mark, and archives get joined.
    """
    assert archive.fileobj is not None
    while piece := archive.fileobj.read(PIECE):
        if piece.strip(b"\0"):
            raise tarfile.ReadError("it goes on behind the mark of its end")


def _tar_pieces(archive: tarfile.TarFile, info: tarfile.TarInfo) -> Iterator[bytes]:
    stream = archive.extractfile(info)
    assert stream is not None
    left = info.size
    while left:
        piece = stream.read(min(PIECE, left))
        if not piece:
            raise EOFError(f"the archive ends {left} bytes early")
        left -= len(piece)
        yield piece


def _guarded(pieces: Iterator[bytes]) -> Iterator[bytes]:
    try:
        yield from pieces
    except _READ_ERRORS as error:
        if is_of_machine(error):
            raise
        raise BrokenMemberError(f"member cannot be read ({error})") from error


def _refusal(name: str, is_plain: bool, size: int) -> LeftOutError | None:
    """Why a member is refused on sight of its header."""
    if not is_plain or not is_safe_path(name):
        found = "an absolute path or has '..' or '\\'" if is_plain else "a link or device"
        detail = f"member {name!r} is {found}; expected a plain file"
        return LeftOutError("unsafe_path", detail)
    if size > MAX_MEMBER_BYTES:
        detail = f"{size} bytes unpacked; expected at most {MAX_MEMBER_BYTES}"
        return LeftOutError("unsupported_media", detail)
    return None


def loose_member(path: Path, name: str) -> Member | BadMember:
    """A file on disk in the shape of a member, links refused.

    Args:
        path: The file; it may have been a link from the start.
        name: Its path below the raw folder.
    """
    if path.is_symlink():
        problem = LeftOutError("unsafe_path", f"{name!r} is a link; expected a plain file")
        return BadMember(name=name, problem=problem)
    size = path.stat().st_size
    return Member(name=name, size=size, pieces=_guarded(_file_pieces(path)), offset=0)


def _file_pieces(path: Path) -> Iterator[bytes]:
    with path.open("rb", buffering=0) as file:
        while piece := file.read(PIECE):
            yield piece


def is_hidden(name: str) -> bool:
    """Whether a path passes a hidden folder or names a hidden file: what tools leave behind."""
    parts = PurePosixPath(name).parts
    return any(part == "__MACOSX" or (part[0] == "." and part != "..") for part in parts)


def member_keys(folder: str, archive: str, name: str) -> list[str]:
    """Paths under which rows may ask for a member, the likeliest first.

    Args:
        folder: Folder of the archive, relative to the raw folder; empty at its root.
        archive: File name of the archive.
        name: Member name.

    Returns:
        As unpacked where the archive lies; in a folder named like the archive; and without one
        outer folder (M4-Instruct is seen with all three).
    """
    stem = PurePosixPath(archive).name.split(".")[0]
    name = PurePosixPath(name).as_posix()
    keys = [name, f"{stem}/{name}"]
    if "/" in name:
        keys.append(name.split("/", 1)[1])
    return [f"{folder}/{key}" if folder else key for key in keys]
