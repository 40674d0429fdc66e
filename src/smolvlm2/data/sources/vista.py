"""VISTA-400K: clips joined in time and space; the key ``image`` names a clip."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from smolvlm2.data.sources.fields import (
    archives_below,
    below,
    clip_paths,
    native_id,
    stem_of,
    turns_of,
    visible,
)
from smolvlm2.data.sources.record import Adapter, RawMedium, Reader, Record

_SPELLINGS = ("spatiotemporal", "spatialtemporal")


@dataclass(frozen=True, kw_only=True)
class Vista(Adapter):
    """A folder a subset, with its tars; the JSON lies in it or beside it under the same name."""

    reader: ClassVar[Reader] = "json"
    placeholders: ClassVar[tuple[str, ...]] = ("<video>", "<image>")

    def record_files(self, raw: Path) -> list[Path]:
        """Every JSON, by name."""
        return visible(raw, raw.rglob("*.json"))

    def archives(self, raw: Path) -> list[Path]:
        """Every tar, by name."""
        return archives_below(raw)

    def records(self, row: dict[str, Any], file: str) -> Iterator[Record]:
        """Take the conversation; a clip without a placeholder comes first, as for its authors."""
        folder = file.rpartition("/")[0]
        subset = folder.rpartition("/")[2] or stem_of(file)
        folders = (folder or subset, *_respelled(folder or subset), "")
        yield Record(
            native_id=native_id(subset, row.get("id")),
            turns=turns_of(row.get("conversations")),
            media=[
                RawMedium(kind="video", paths=below(folders, path))
                for path in clip_paths(row.get("image") or row.get("video"))
            ],
            subset=subset,
        )


def _respelled(folder: str) -> tuple[str, ...]:
    """The folder under the other spelling that annotations and folders disagree on."""
    for one, other in (_SPELLINGS, _SPELLINGS[::-1]):
        if one in folder:
            return (folder.replace(one, other),)
    return ()
