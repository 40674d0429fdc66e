"""A range of bytes of a file as a file of its own: a clip inside a shard, read where it lies."""

import io
import os
from pathlib import Path
from typing import Any

from smolvlm2.errors import MediaError, MediaNotFoundError


class RangeFile(io.RawIOBase):
    """Read-only, seekable view of ``size`` bytes; reads nothing before it is asked to."""

    def __init__(self, path: str | Path, offset: int = 0, size: int | None = None) -> None:
        """Open the file.

        Args:
            path: The file.
            offset: First byte of the range.
            size: Bytes of the range; None: to the end of the file.

        Raises:
            MediaNotFoundError: No such file.
            MediaError: ``corrupt_media``: the file ends before the range does, or does not open.
        """
        self.path = Path(path)
        self.offset = offset
        try:
            self._file = self.path.open("rb", buffering=0)
        except (FileNotFoundError, NotADirectoryError) as error:
            raise MediaNotFoundError(
                f"{path}: no such file; restore it, or prepare again"
            ) from error
        except OSError as error:
            raise MediaError(f"{path}: cannot be opened ({error})") from error
        length = os.fstat(self._file.fileno()).st_size
        self.size = max(length - offset, 0) if size is None else size
        self._at = 0
        if offset + self.size > length:
            self.close()
            raise MediaError(
                f"{path}: has {length} bytes, expected {self.size} at offset {offset}; the file "
                f"was cut or replaced, prepare the source again"
            )

    def __str__(self) -> str:
        return f"{self.path} (bytes {self.offset} to {self.offset + self.size})"

    def readable(self) -> bool:
        """True."""
        return True

    def seekable(self) -> bool:
        """True."""
        return True

    def tell(self) -> int:
        """Position in the range, in bytes."""
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move within the range; past its end reads give nothing, as in any file."""
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self.size}[whence]
        if start + offset < 0:
            raise ValueError(f"{self}: seek to {start + offset}, expected 0 or more")
        self._at = start + offset
        return self._at

    def readinto(self, buffer: Any) -> int:
        """Fill as much of ``buffer`` as the range still has."""
        view = memoryview(buffer).cast("B")
        view = view[: max(self.size - self._at, 0)]
        self._file.seek(self.offset + self._at)
        read = self._file.readinto(view) or 0
        self._at += read
        return read

    def close(self) -> None:
        """Close the file underneath."""
        if not self.closed:
            self._file.close()
        super().close()
