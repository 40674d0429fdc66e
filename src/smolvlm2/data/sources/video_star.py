"""Video-STaR: questions on clips of three other data sets, which have to be brought."""

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

_FOLDERS = {"kinetics700": "Kinetics700", "starb": "STAR-benchmark", "finediving": "FineDiving"}
"""Where the clips of each subset are looked for, named like the configs on the hub."""
_CLIP_KEYS = ("video", "video_path", "video_id", "id")


@dataclass(frozen=True, kw_only=True)
class VideoStar(Adapter):
    """LLaVA-like rows in ``ft_json/<subset>_tune_.json``; rows without their clip are counted.

    The hub's viewer cannot read the files and their keys were not confirmed: the clip is taken from
    ``video``, ``video_path``, ``video_id`` or ``id``, whichever comes first.
    """

    reader: ClassVar[Reader] = "json"
    placeholders: ClassVar[tuple[str, ...]] = ("<image>", "<video>")

    def record_files(self, raw: Path) -> list[Path]:
        """Every ``*_tune_.json``, by name."""
        return visible(raw, raw.rglob("*_tune*.json"))

    def archives(self, raw: Path) -> list[Path]:
        """Whatever archives the clips were brought in, by name."""
        return archives_below(raw)

    def records(self, row: dict[str, Any], file: str) -> Iterator[Record]:
        """Take the conversation; the clip lies in the folder of its data set."""
        subset = stem_of(file).partition("_tune")[0]
        values = (row.get(key) for key in _CLIP_KEYS)
        clip = next((value for value in values if value and isinstance(value, str | list)), None)
        yield Record(
            native_id=native_id(subset, row.get("id")),
            turns=turns_of(row.get("conversations")),
            media=[
                RawMedium(kind="video", paths=_places(_FOLDERS.get(subset, subset), path))
                for path in clip_paths(clip)
            ],
            subset=subset,
        )


def _places(folder: str, path: str) -> tuple[str, ...]:
    """Below the subset's folder, as written, or by the clip's bare name."""
    if "." not in path.rpartition("/")[2]:
        path = f"{path}.mp4"
    if path.startswith("/") or ".." in path.split("/"):
        return (path,)
    inside = path.removeprefix(f"{folder}/")
    name = path.rpartition("/")[2]
    return tuple(dict.fromkeys((*below((folder, ""), inside), path, f"{folder}/{name}")))
