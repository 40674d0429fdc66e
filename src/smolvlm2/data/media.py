"""Where the bytes of an image or video lie, and how to get them."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from smolvlm2.errors import MediaError, MediaNotFoundError

IMAGE, VIDEO = 0, 1
"""Values of the ``media_kind`` column."""
KINDS = ("image", "video")


@dataclass(frozen=True)
class MediaLocator:
    """A whole file, or a range of bytes inside a shard, a zip or a tar."""

    kind: str
    """``image`` or ``video``."""
    path: str
    """Relative to the data root, with forward slashes."""
    offset: int | None = None
    """First byte; None for a whole file."""
    size: int | None = None
    """Number of bytes; None for a whole file."""

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "MediaLocator":
        """Read one entry of the manifest's ``media`` column."""
        return cls(value["kind"], value["path"], value.get("offset"), value.get("size"))

    def to_json(self) -> dict[str, Any]:
        """The entry for the manifest's ``media`` column."""
        entry: dict[str, Any] = {"kind": self.kind, "path": self.path}
        if self.offset is not None:
            entry |= {"offset": self.offset, "size": self.size}
        return entry

    def __str__(self) -> str:
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

    def read(self, locator: MediaLocator) -> bytes:
        """Read one medium as it was published.

        Raises:
            MediaNotFoundError: The file is not there.
            MediaError: The path leaves the root (``unsafe_path``), the file is shorter than the
                range, or it cannot be read (``corrupt_media``).
        """
        if not is_safe_path(locator.path):
            raise MediaError(
                f"{locator.path}: leaves the data root {self.root}; expected a relative path "
                "without '..'; prepare the source again",
                reason="unsafe_path",
            )
        path = self.root / locator.path
        try:
            with path.open("rb") as file:
                if locator.offset is None:
                    return file.read()
                file.seek(locator.offset)
                data = file.read(locator.size)
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


def is_safe_path(path: str) -> bool:
    """Whether a published path stays below the folder it is relative to."""
    if not path or "\\" in path or "\0" in path or path[1:2] == ":":
        return False
    parts = PurePosixPath(path).parts
    return not path.startswith("/") and ".." not in parts
