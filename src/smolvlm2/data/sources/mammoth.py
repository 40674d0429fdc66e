"""MAmmoTH-VL-Instruct-12M: two very large JSON files, media in numbered shards."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from smolvlm2.data.sources.fields import (
    archives_below,
    below,
    in_marked_order,
    native_id,
    paths_of,
    turns_of,
)
from smolvlm2.data.sources.record import Adapter, RawMedium, Reader, Record

_SINGLE, _MULTI, _VIDEO = "single_image_data", "multi_image_data", "video_data"


@dataclass(frozen=True, kw_only=True)
class MammothVL(Adapter):
    """Rows with one image, several, or a clip; which it is names the subset.

    Paths are relative to where the shards are unpacked: their own folder, or one for all.
    """

    reader: ClassVar[Reader] = "json"
    placeholders: ClassVar[tuple[str, ...]] = ("<image>", "<video>")

    def record_files(self, raw: Path) -> list[Path]:
        """``mammoth_si_10M.json`` and ``mammoth_ov_2M.json``, or their earlier parts, by name."""
        return sorted(raw.glob("mammoth*.json"))

    def archives(self, raw: Path) -> list[Path]:
        """Every shard, by name."""
        return archives_below(raw)

    def records(self, row: dict[str, Any], file: str) -> Iterator[Record]:
        """Take the conversation and its images and clips."""
        images, videos = paths_of(row.get("image")), paths_of(row.get("video"))
        turns = turns_of(row.get("conversations"))
        stills = ("text", "image", "multi_image")[min(len(images), 2)]
        subset = "video" if videos else stills
        folders = (_MULTI, "", _SINGLE) if len(images) > 1 else (_SINGLE, "", _MULTI)
        media = [RawMedium(kind="image", paths=below(folders, path)) for path in images]
        media += [RawMedium(kind="video", paths=below((_VIDEO, ""), path)) for path in videos]
        yield Record(
            native_id=native_id(subset, row.get("id")),
            turns=turns,
            media=in_marked_order(media, turns) if images and videos else media,
            subset=subset,
        )
