"""One published row after its adapter, and what an adapter is."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol


@dataclass(kw_only=True)
class RawMedium:
    """An image or video of a row: its bytes, or the path that the row gives."""

    data: bytes | None = None
    path: str | None = None


@dataclass(kw_only=True)
class Record:
    """A row in one shape for all data sets, before it is checked."""

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
    swap_roles: bool = False
    """The publisher has the two roles the wrong way round."""


class Adapter(Protocol):
    """What tells one data set from another; plain data, so that a worker process can have it."""

    layout: ClassVar[Literal["parquet", "json"]]
    """Which reader opens the record files."""
    columns: ClassVar[tuple[str, ...]]
    """Parquet columns that the adapter wants; empty for JSON."""
    media_kind: ClassVar[str]
    """``image`` or ``video``."""
    placeholders: ClassVar[tuple[str, ...]]
    """Strings in a user's text that mark a medium's place; empty when text never holds any."""

    @property
    def source(self) -> str:
        """Name under which the source is prepared."""

    @property
    def licence(self) -> str:
        """As the hub states it."""

    def record_files(self, raw: Path) -> list[Path]:
        """Files with rows, in the order that decides which duplicate stays."""

    def archives(self, raw: Path) -> list[Path]:
        """Files that hold media of several rows."""

    def record(self, row: dict[str, Any], file: str) -> Record:
        """Turn one row into a record.

        Args:
            row: As the reader gives it.
            file: Relative path of the record file, with forward slashes.

        Raises:
            LeftOutError: The row can be refused on sight.
        """


def split_of(file: str) -> str:
    """The split that a hub file belongs to: ``<config>/<split>-00000-of-00001.parquet``."""
    name = file.rsplit("/", 1)[-1]
    return name.split("-")[0] if "-of-" in name else "train"
