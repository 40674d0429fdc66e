"""Where the bytes of an image or video lie, and how to get them."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from smolvlm2.errors import MediaError, MediaNotFoundError
from smolvlm2.processing.range_file import RangeFile
from smolvlm2.processing.video import FrameSequence

IMAGE, VIDEO = 0, 1
"""Values of the ``media_kind`` column."""
KINDS = ("image", "video")


@dataclass(frozen=True)
class Frame:
    """One kept frame of a clip: an image file, or a range of bytes in one."""

    path: str
    """Relative to the data root, with forward slashes."""
    offset: int | None
    """First byte; None for a whole file."""
    size: int | None
    """Number of bytes; None for a whole file."""
    time: float
    """Seconds from the clip's start."""


@dataclass(frozen=True)
class MediaLocator:
    """A whole file, a range of bytes inside a shard, a zip or a tar; or the kept frames of a clip.

    In the manifest a clip of frames is ``{"kind": "video", "duration": s, "paths": [path, ...],
    "frames": [[number of the path, offset or null, size or null, time in s], ...]}``.
    """

    kind: str
    """``image`` or ``video``."""
    path: str = ""
    """Relative to the data root, with forward slashes; empty where there are frames."""
    offset: int | None = None
    """First byte; None for a whole file."""
    size: int | None = None
    """Number of bytes; None for a whole file."""
    frames: tuple[Frame, ...] = ()
    """Of a clip that is kept as images, in order."""
    duration: float = 0.0
    """Length of the whole clip in seconds, where there are frames."""

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "MediaLocator":
        """Read one entry of the manifest's ``media`` column."""
        if "frames" not in value:
            return cls(value["kind"], value["path"], value.get("offset"), value.get("size"))
        paths = value["paths"]
        frames = tuple(Frame(paths[number], *rest) for number, *rest in value["frames"])
        return cls(value["kind"], frames=frames, duration=value["duration"])

    def to_json(self) -> dict[str, Any]:
        """The entry for the manifest's ``media`` column."""
        if self.frames:
            paths = {path: n for n, path in enumerate(dict.fromkeys(f.path for f in self.frames))}
            frames = [[paths[f.path], f.offset, f.size, f.time] for f in self.frames]
            clip = {"kind": self.kind, "duration": self.duration}
            return clip | {"paths": list(paths), "frames": frames}
        entry: dict[str, Any] = {"kind": self.kind, "path": self.path}
        if self.offset is not None:
            entry |= {"offset": self.offset, "size": self.size}
        return entry

    def __str__(self) -> str:
        if self.frames:
            return f"{len(self.frames)} frames from {self.frames[0].path} on"
        if self.offset is None:
            return self.path
        return f"{self.path} (bytes {self.offset} to {self.offset + (self.size or 0)})"


class MediaStore:
    """Reads media below one data root; holds no open files, so it can be sent to any worker."""

    def __init__(self, root: str | Path) -> None:
        """Remember the root.

        Args:
            root: The data root that the locators are relative to, e.g. ``data``.
        """
        self.root = Path(root)

    def read(self, locator: MediaLocator) -> bytes | FrameSequence:
        """Read one medium as it was published, or a clip's kept frames.

        Raises:
            MediaNotFoundError: The file is not there.
            MediaError: The path leaves the root (``unsafe_path``), the file is shorter than the
                range, or it cannot be read (``corrupt_media``).
        """
        if locator.frames:
            return self._read_frames(locator)
        return self._read_bytes(locator)

    def open(self, locator: MediaLocator) -> RangeFile | FrameSequence:
        """Open one medium without reading it; a clip's kept frames are read.

        Raises:
            MediaNotFoundError: The file is not there.
            MediaError: As ``read``.
        """
        if locator.frames:
            return self._read_frames(locator)
        return RangeFile(self._safe(locator.path), locator.offset or 0, locator.size)

    def _read_frames(self, locator: MediaLocator) -> FrameSequence:
        ranges = [MediaLocator("image", f.path, f.offset, f.size) for f in locator.frames]
        times = [frame.time for frame in locator.frames]
        return FrameSequence([self._read_bytes(each) for each in ranges], times, locator.duration)

    def _safe(self, path: str) -> Path:
        if not is_safe_path(path):
            raise MediaError(
                f"{path}: leaves the data root {self.root}; expected a relative path "
                "without '..'; prepare the source again",
                reason="unsafe_path",
            )
        return self.root / path

    def _read_bytes(self, locator: MediaLocator) -> bytes:
        path = self._safe(locator.path)
        try:
            # Without a buffer: a range is read with one call, and nothing behind it.
            with path.open("rb", buffering=0) as file:
                if locator.offset is None:
                    return file.readall()
                file.seek(locator.offset)
                data = _read_fully(file, locator.size or 0)
        except (FileNotFoundError, NotADirectoryError) as error:
            raise MediaNotFoundError(
                f"{path}: no such file, but a manifest refers to {locator}; restore it, or "
                "prepare the source again"
            ) from error
        except OSError as error:
            raise MediaError(f"{path}: cannot be read ({error}); wanted {locator}") from error
        if len(data) != locator.size:
            raise MediaError(
                f"{path}: found {len(data)} bytes at offset {locator.offset}, expected "
                f"{locator.size}; the file was cut or replaced, prepare the source again"
            )
        return data


def _read_fully(file: Any, size: int) -> bytes:
    """``size`` bytes, or what is left; one system call gives at most two gigabytes."""
    data = file.read(size)
    while len(data) < size and (more := file.read(size - len(data))):
        data += more
    return data


def is_safe_path(path: str) -> bool:
    """Whether a published path stays below the folder it is relative to."""
    if not path or "\\" in path or "\0" in path or path[1:2] == ":":
        return False
    parts = PurePosixPath(path).parts
    return not path.startswith("/") and ".." not in parts
