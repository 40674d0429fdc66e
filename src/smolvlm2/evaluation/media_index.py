"""Where a benchmark's media lie: loose files, members of zips, cells of tables.

A benchmark is looked up by the ends of paths, so it does not matter whether archives were
unpacked, nor how many folders lie around them.
"""

import functools
import lzma
import threading
import zipfile
import zlib
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

import pyarrow as pa
import pyarrow.parquet as pq

from smolvlm2.data.media import is_safe_path
from smolvlm2.errors import MediaError, MediaNotFoundError

VIDEO_SUFFIXES = (".mp4", ".MP4", ".webm", ".mkv", ".avi", ".mov")
"""Endings tried for a video whose own ending is not there."""
_ZIP_ERRORS = (
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    EOFError,
    OSError,
    RuntimeError,  # an encrypted member, a method or version that Python does not know
    UnicodeDecodeError,  # a damaged name
)
"""What a zip, or a member of it, that cannot be read raises."""


@dataclass(frozen=True)
class LooseFile:
    """A file on disk."""

    path: Path

    def open(self) -> Path | bytes:
        """Its path: decoders read files on their own."""
        return self.path

    def __str__(self) -> str:
        return str(self.path)


@dataclass(frozen=True)
class ZipMember:
    """A file inside a zip, packed or not."""

    archive: Path
    name: str

    def open(self) -> Path | bytes:
        """Its bytes.

        Raises:
            MediaError: The member is damaged (``corrupt_media``).
        """
        try:
            with zipfile.ZipFile(self.archive) as archive:
                return archive.read(self.name)
        except _ZIP_ERRORS as error:
            raise MediaError(
                f"{self}: cannot be read ({error}); fetch the archive again"
            ) from error

    def __str__(self) -> str:
        return f"{self.archive}:{self.name}"


@dataclass(frozen=True)
class TableCell:
    """A picture inside a parquet file."""

    path: Path
    group: int
    row: int
    column: str

    def open(self) -> Path | bytes:
        """Its bytes.

        Raises:
            MediaError: Nothing is there, or it does not decode (``corrupt_media``).
        """
        try:
            value = _column(self.path, self.group, self.column)[self.row].as_py()
        except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
            raise MediaError(f"{self}: cannot be read ({error}); fetch the file again") from error
        data = value.get("bytes") if isinstance(value, dict) else value
        if not isinstance(data, bytes):
            raise MediaError(f"{self}: holds no bytes; fetch the file again")
        return data

    def __str__(self) -> str:
        return f"{self.path}: {self.column} of row {self.row} in group {self.group}"


@dataclass(frozen=True)
class FrameFolder:
    """A video as numbered pictures, in order."""

    frames: tuple["LooseFile | ZipMember", ...]
    rate: float
    """Pictures a second."""

    def __str__(self) -> str:
        return str(PurePosixPath(str(self.frames[0])).parent)


@dataclass(frozen=True)
class Absent:
    """A medium that was looked for and is not there."""

    wanted: str
    """The likeliest path."""
    root: Path

    def open(self) -> Path | bytes:
        """Raise MediaNotFoundError (``missing_media``)."""
        raise MediaNotFoundError(f"{self.wanted}: in no file or zip below {self.root}")

    def __str__(self) -> str:
        return self.wanted


Source = LooseFile | ZipMember | TableCell | FrameFolder | Absent

_CELL_LOCK = threading.Lock()


def _column(path: Path, group: int, column: str) -> pa.ChunkedArray:
    # Rows are asked for in order, by several threads: one reads a group, the rest find it.
    with _CELL_LOCK:
        return _read_column(path, group, column)


@functools.lru_cache(maxsize=2)
def _read_column(path: Path, group: int, column: str) -> pa.ChunkedArray:
    with pq.ParquetFile(path) as file:
        return file.read_row_group(group, columns=[column]).column(0)


@dataclass
class MediaIndex:
    """Every file below a folder, found by the end of its path; archives are listed, not read."""

    root: Path
    _files: dict[str, list[tuple[str, LooseFile | ZipMember]]] = field(init=False)
    _folders: dict[str, dict[str, list[tuple[str, LooseFile | ZipMember]]]] = field(init=False)

    def __post_init__(self) -> None:
        self._files = defaultdict(list)
        self._folders = defaultdict(lambda: defaultdict(list))
        for path, source in self._all():
            place = PurePosixPath(path)
            self._files[place.name].append((path, source))
            if place.suffix.lower() in (".jpg", ".jpeg", ".png"):
                self._folders[place.parent.name][str(place.parent)].append((path, source))

    def _all(self) -> Iterator[tuple[str, LooseFile | ZipMember]]:
        for path in sorted(self.root.rglob("*")):
            inner = path.relative_to(self.root)
            if any(part.startswith(".") for part in inner.parts) or not path.is_file():
                continue
            if path.suffix.lower() == ".zip":
                yield from self._members(path, inner.parent)
            else:
                yield inner.as_posix(), LooseFile(path)

    @staticmethod
    def _members(path: Path, folder: Path) -> Iterator[tuple[str, ZipMember]]:
        try:
            with zipfile.ZipFile(path) as archive:
                names = [info.filename for info in archive.infolist() if not info.is_dir()]
        except _ZIP_ERRORS:
            return  # what it should have held is missing, and each question says so
        for name in names:
            if is_safe_path(name):
                yield (folder / name).as_posix(), ZipMember(path, name)

    def find(self, paths: Sequence[str], suffixes: Sequence[str] = ()) -> Source:
        """The first of ``paths`` that is there, with its own ending or one of ``suffixes``.

        Loose files come before members of archives, short paths before long ones.
        """
        for path in paths:
            if not is_safe_path(path):
                continue
            stem = PurePosixPath(path).with_suffix("").as_posix()
            for wanted in (path, *(stem + s for s in suffixes), *(path + s for s in suffixes)):
                found = [
                    (isinstance(source, ZipMember), len(place), place, source)
                    for place, source in self._files.get(PurePosixPath(wanted).name, ())
                    if place == wanted or place.endswith(f"/{wanted}")
                ]
                if found:
                    return min(found, key=lambda entry: entry[:3])[3]
        return Absent(paths[0] if paths else "(no path)", self.root)

    def find_frames(self, paths: Sequence[str], rate: float) -> Source:
        """A folder of pictures by the end of its path, in the order of the pictures' names."""
        for path in paths:
            folders = self._folders.get(PurePosixPath(path).name, {})
            places = [p for p in folders if p == path or p.endswith(f"/{path}")]
            if places and is_safe_path(path):
                files = sorted(folders[min(places, key=lambda p: (len(p), p))])
                return FrameFolder(tuple(source for _, source in files), rate)
        return Absent(paths[0] if paths else "(no path)", self.root)
