"""Uncompressed tar shards: media side by side, each read by offset."""

import tarfile
from pathlib import Path
from typing import BinaryIO

MAX_SHARD_BYTES = 4 * 2**30
"""A shard is closed once it holds this many bytes; large files are cheap, huge ones unwieldy."""
_BLOCK = 512


class ShardWriter:
    """Writes ``<stem>-00000.tar`` and so on; each is a plain tar that any tool can list."""

    def __init__(self, folder: Path, stem: str, max_bytes: int = MAX_SHARD_BYTES) -> None:
        """Nothing is written before the first medium.

        Args:
            folder: Made when needed.
            stem: Start of the file names; unique to one input file.
            max_bytes: Size after which the next shard begins.
        """
        self.folder = folder
        self.stem = stem
        self.max_bytes = max_bytes
        self._number = 0
        self._file: BinaryIO | None = None

    def add(self, name: str, data: bytes) -> tuple[str, int]:
        """Append one medium.

        Args:
            name: Member name, at most 100 ASCII characters.
            data: Its bytes.

        Returns:
            The shard's file name and the offset of the first byte of ``data``.
        """
        if self._file is not None and self._file.tell() >= self.max_bytes:
            self.close()
        if self._file is None:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._file = (self.folder / self._name()).open("wb")
        member = tarfile.TarInfo(name)
        member.size = len(data)
        self._file.write(member.tobuf(format=tarfile.USTAR_FORMAT))
        offset = self._file.tell()
        self._file.write(data)
        self._file.write(bytes(-len(data) % _BLOCK))
        return self._name(), offset

    def close(self) -> None:
        """End the shard in hand; a later medium starts the next one."""
        if self._file is not None:
            self._file.write(bytes(2 * _BLOCK))
            self._file.close()
            self._file = None
            self._number += 1

    def _name(self) -> str:
        return f"{self.stem}-{self._number:05d}.tar"

    def __enter__(self) -> "ShardWriter":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
