"""ShareGPT4Video: clips with one long caption; zips by origin."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from smolvlm2.data.ledger import LeftOutError
from smolvlm2.data.sources.fields import (
    archives_below,
    below,
    caption_of,
    clip_paths,
    native_id,
    objects_of,
    stem_of,
)
from smolvlm2.data.sources.prompts import SHAREGPT4VIDEO, pick_prompt
from smolvlm2.data.sources.record import Adapter, RawMedium, Reader, Record

_WHOLE = "-1"
"""``idx`` of the caption of the whole clip; the others tell key frames and what changes."""
_RESPELLED = {"mixkit": "mixit"}
"""A folder of zips is spelled unlike the paths into it may be."""


@dataclass(frozen=True, kw_only=True)
class ShareGPT4Video(Adapter):
    """Lines of ``sharegpt4video_40k.jsonl``; clips in ``zip_folder/<set>/<set>_videos_N.zip``.

    The conversations of ``llava_v1_5_mix665k...json`` are other data sets and are not read.
    """

    reader: ClassVar[Reader] = "json"

    def record_files(self, raw: Path) -> list[Path]:
        """The captions; a file a set of captions, by name."""
        return sorted(raw.glob("sharegpt4video*.jsonl"))

    def archives(self, raw: Path) -> list[Path]:
        """Every zip, by name."""
        return archives_below(raw)

    def records(self, row: dict[str, Any], file: str) -> Iterator[Record]:
        """Take the caption of the whole clip."""
        (path, *others) = clip_paths(row.get("video_path"))
        if others:
            raise LeftOutError("unreadable_record", f"{1 + len(others)} clips; expected one")
        origin = path.partition("/")[0] if "/" in path.lstrip("/") else _origin_of(row)
        subset = _RESPELLED.get(origin, origin)
        captions = objects_of(row.get("captions"), "captions")
        whole = next((c.get("content") for c in captions if str(c.get("idx")) == _WHOLE), None)
        answer = caption_of(whole, f"the caption with idx {_WHOLE}")
        name = native_id(subset, row.get("video_id") or stem_of(path))
        assert name is not None
        inside = path.removeprefix(f"{origin}/")
        yield Record(
            native_id=name,
            turns=[("user", pick_prompt(SHAREGPT4VIDEO, name)), ("assistant", answer)],
            media=[RawMedium(kind="video", paths=_places(subset, origin, path, inside))],
            subset=subset,
        )


def _origin_of(row: dict[str, Any]) -> str:
    """The set that a zip's name begins with."""
    return str(row.get("zip_folder") or "").rpartition("/")[2].partition("_videos")[0]


def _places(subset: str, origin: str, path: str, inside: str) -> tuple[str, ...]:
    """As unpacked in the folder of its zip, with or without the set's name, or without folders."""
    if path.startswith("/"):
        return (path,)
    folder = f"zip_folder/{subset}"
    places = (*below((folder,), inside), *below((folder, "zip_folder", ""), path))
    return tuple(dict.fromkeys(places))
