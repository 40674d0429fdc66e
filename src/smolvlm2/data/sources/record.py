"""One published row after its adapter, and what an adapter is."""

import re
from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

from smolvlm2.data.ledger import LeftOutError

_HELD_OUT = re.compile(r"(test|testmini|val|valid|validation|dev|eval|evaluation)[-_.\d]", re.I)
Reader = Literal["parquet", "json", "json_files"]
"""How rows are read: ``parquet``; ``json``: a list, lines, or an object of objects;
``json_files``: every ``.json`` file of a folder or a zip is one row."""


@dataclass(kw_only=True)
class RawMedium:
    """An image or clip of a row: its bytes, or where the row says that it lies."""

    kind: Literal["image", "video"]
    """What the row says that it is; the bytes must agree."""
    data: bytes | None = None
    """The file, where the row holds it. Records of one row that show the same file share the
    object, which is then stored once."""
    paths: tuple[str, ...] = ()
    """Candidates below the raw folder, as it lies there when archives are unpacked beside
    themselves; the likeliest first."""
    frame_rate: float | None = None
    """For a clip whose path is a folder of images: images a second."""
    min_duration: float = 0.0
    """Last second that the row speaks of; a clip that ends before is an ``incomplete_record``. The
    adapter knows what is said, only who has probed the clip knows how long it lasts."""


@dataclass(kw_only=True)
class Record:
    """A sample in one shape for all data sets, before it is checked."""

    native_id: str | None
    """Id in the data set, unique enough to read; None: the file and row stand in for it."""
    turns: list[tuple[Any, Any]]
    """Role and text as published, unchecked."""
    media: list[RawMedium] = field(default_factory=list)
    """In order of appearance."""
    subset: str = ""
    """Config or part that a mixture can name."""
    flags: int = 0
    """Bits of ``geometry.FLAGS``."""
    placeholders: tuple[str, ...] | None = None
    """What marks a medium's place in this sample; None: what the adapter says."""
    swap_roles: bool = False
    """The publisher has the two roles the wrong way round."""


@dataclass(frozen=True, kw_only=True)
class Adapter(ABC):
    """What tells one data set from another; plain data, so that a worker process can have it."""

    source: str
    """Name under which the source is prepared."""
    licence: str
    """As the hub states it."""
    reader: ClassVar[Reader]
    """Which reader opens the record files."""
    columns: ClassVar[tuple[str, ...]] = ()
    """Parquet columns without which a file cannot be read; empty for JSON. Every row of a file
    that lacks one is an ``unreadable_record``: one broken config does not take the source down. A
    source in which every file lacks one is another data set: ``DataError``."""
    optional_columns: ClassVar[tuple[str, ...]] = ()
    """Parquet columns that are read where a file has them; elsewhere the row has no such key."""
    placeholders: ClassVar[tuple[str, ...]] = ()
    """Strings in a user's text that mark a medium's place; empty when text never holds any."""

    @abstractmethod
    def record_files(self, raw: Path) -> list[Path]:
        """Files with rows, in the order that decides which duplicate stays.

        With ``json_files`` these are folders or zips.
        """

    @abstractmethod
    def archives(self, raw: Path) -> list[Path]:
        """Files that hold media of several rows.

        All other files below ``raw`` that are neither these nor record files are loose media.
        """

    @abstractmethod
    def records(self, row: dict[str, Any], file: str) -> Iterable[Record | LeftOutError]:
        """Turn one row into its samples, most often one; a part of the row may be refused.

        Args:
            row: As the reader gives it.
            file: Relative path of the record file, with forward slashes; with ``json_files``
                that of the folder or zip, a slash, and the file in it.

        Raises:
            LeftOutError: The whole row can be refused on sight; it counts as one.
        """


def split_of(file: str) -> str:
    """The split that a parquet file belongs to, by its name: ``test-00000-of-00001.parquet``.

    Returns:
        ``train`` for whatever is not called one of the others, such as ``shard-00000-of-00009``.
    """
    found = _HELD_OUT.match(file.rsplit("/", 1)[-1])
    return found.group(1).lower() if found else "train"
