"""Media files in zips, tars and folders: by offset where they lie plain, repacked where not."""

import gzip
import tarfile
import zipfile
import zlib
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from smolvlm2.data.ledger import LeftOutError
from smolvlm2.data.media import is_safe_path

_READ_ERRORS = (
    zipfile.BadZipFile,
    tarfile.TarError,
    gzip.BadGzipFile,
    zlib.error,
    EOFError,
    OSError,
    NotImplementedError,  # a compression method that Python does not know
    RuntimeError,  # an encrypted member
)


MAX_MEMBER_BYTES = 4 * 2**30
"""Larger members are refused: a member is read whole, and a bomb is only small while packed."""


@dataclass(frozen=True, kw_only=True)
class Member:
    """One file of an archive that could be read."""

    name: str
    """As in the archive."""
    data: bytes
    """Its bytes."""
    offset: int | None
    """Where the bytes lie in the archive; None when they are compressed there."""


@dataclass(frozen=True, kw_only=True)
class BadMember:
    """One file of an archive that is left out, or the rest of the archive."""

    name: str | None
    """As in the archive; None for the archive itself."""
    problem: LeftOutError
    """Why."""


def is_archive(path: Path) -> bool:
    """Whether the file is named like a zip or tar; its bytes decide when it is read."""
    name = path.name.lower()
    return name.endswith((".zip", ".tar", ".tar.gz", ".tgz"))


def archive_members(path: Path) -> Generator[Member | BadMember, None, None]:
    """Yield every file of a zip or tar in archive order; folders are passed over.

    Unsafe names and links are reported and never followed; a damaged member does not hide others.
    """
    try:
        if zipfile.is_zipfile(path):
            yield from _zip_members(path)
        else:
            yield from _tar_members(path)
    except _READ_ERRORS as error:
        detail = f"the archive cannot be read to its end ({type(error).__name__}: {error})"
        yield BadMember(name=None, problem=LeftOutError("corrupt_media", detail))


def _zip_members(path: Path) -> Iterator[Member | BadMember]:
    with zipfile.ZipFile(path) as archive, path.open("rb") as file:
        for info in archive.infolist():
            if info.is_dir():
                continue
            # ZipFile cuts names at NUL and, on Windows, turns slashes: judge what is in the file.
            is_link = info.external_attr >> 16 & 0o170000 == 0o120000
            if is_link or not is_safe_path(info.orig_filename):
                yield _unsafe(info.orig_filename, is_link)
                continue
            if info.file_size > MAX_MEMBER_BYTES:
                yield _too_large(info.filename, info.file_size)
                continue
            try:
                data = archive.read(info)
            except _READ_ERRORS as error:
                detail = f"member cannot be read ({error})"
                yield BadMember(name=info.filename, problem=LeftOutError("corrupt_media", detail))
                continue
            offset = None
            if info.compress_type == zipfile.ZIP_STORED:
                # The local header repeats name and extra field, with lengths of its own.
                file.seek(info.header_offset + 26)
                lengths = file.read(4)
                offset = info.header_offset + 30
                offset += int.from_bytes(lengths[:2], "little")
                offset += int.from_bytes(lengths[2:], "little")
            yield Member(name=info.filename, data=data, offset=offset)


def _tar_members(path: Path) -> Iterator[Member | BadMember]:
    with path.open("rb") as file:
        compressed = file.read(2) == b"\x1f\x8b"
    # A stream is read once from front to back: going back in a gzip means starting again.
    mode = "r|gz" if compressed else "r:"
    with tarfile.open(path, mode) as archive:  # type: ignore[call-overload]
        for info in archive:
            if info.isdir():
                continue
            if not info.isreg() or not is_safe_path(info.name):
                yield _unsafe(info.name, not info.isreg())
                continue
            if info.size > MAX_MEMBER_BYTES:
                yield _too_large(info.name, info.size)
                continue
            stream = archive.extractfile(info)
            assert stream is not None
            data = stream.read()
            if len(data) != info.size:
                raise EOFError(f"{info.name} has {len(data)} of {info.size} bytes")
            offset = None if compressed or info.issparse() else info.offset_data
            yield Member(name=info.name, data=data, offset=offset)


def _too_large(name: str, size: int) -> BadMember:
    detail = f"{size} bytes unpacked; expected at most {MAX_MEMBER_BYTES}"
    return BadMember(name=name, problem=LeftOutError("unsupported_media", detail))


def _unsafe(name: str, is_link: bool) -> BadMember:
    found = "a link or device" if is_link else "an absolute path or one with '..'"
    return BadMember(
        name=name,
        problem=LeftOutError("unsafe_path", f"member {name!r} is {found}; expected a plain file"),
    )


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


def loose_file(raw: Path, path: str) -> Path:
    """The file that a row names, below the raw folder.

    Raises:
        LeftOutError: The path is unsafe or a link (``unsafe_path``), or there is no such file
            (``missing_media``).
    """
    if not is_safe_path(path):
        raise LeftOutError(
            "unsafe_path", f"{path!r} is absolute or has '..'; expected a path below the data set"
        )
    file = raw
    for part in PurePosixPath(path).parts:
        file = file / part
        if file.is_symlink():
            raise LeftOutError("unsafe_path", f"{path!r} passes a link; expected plain files")
    if not file.is_file():
        raise LeftOutError("missing_media", f"{path!r} is in no archive and no file")
    return file
