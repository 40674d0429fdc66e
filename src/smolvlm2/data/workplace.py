"""Where one prepare works: folders, and the names of parts."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

from smolvlm2.data.kept_frames import FrameSettings
from smolvlm2.data.sources.record import Adapter


@dataclass(frozen=True, kw_only=True)
class Workplace:
    """Folders of one prepare; sent to every worker."""

    adapter: Adapter
    raw: Path
    """The raw folder of the source."""
    raw_prefix: str
    """The raw folder relative to the data root."""
    folder: Path
    """Where the source is being built."""
    shard_prefix: str
    """Where its shards will be, relative to the data root."""
    frames: FrameSettings | None = None
    """How clips are kept as frames; None keeps the files."""

    @property
    def parts(self) -> Path:
        """Folder of the parts; removed at the end."""
        return self.folder / "parts"

    @property
    def shards(self) -> Path:
        """Folder of the shards; stays."""
        return self.folder / "shards"

    def part(self, name: str) -> Path:
        """Start of the file names of one input's part."""
        return self.parts / part_name(name)


def part_name(name: str) -> str:
    """A flat file name for an input: readable, and unique by its hash."""
    digest = hashlib.blake2b(name.encode("utf-8", "surrogateescape"), digest_size=4).hexdigest()
    stem = Path(name).name.split(".")[0]
    plain = "".join(c if c.isascii() and (c.isalnum() or c in "-_") else "_" for c in stem)
    return f"{plain[:60]}-{digest}"
