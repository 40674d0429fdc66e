"""Vript: clips with a script each; a caption file a video, a sample a clip."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from smolvlm2.data.ledger import LeftOutError
from smolvlm2.data.sources.archives import is_archive
from smolvlm2.data.sources.fields import below, caption_of, native_id, object_of, stem_of, visible
from smolvlm2.data.sources.prompts import VRIPT, pick_prompt
from smolvlm2.data.sources.record import Adapter, RawMedium, Reader, Record

_CAPTIONS = "vript_{part}_videos_captions"


@dataclass(frozen=True, kw_only=True)
class Vript(Adapter):
    """Captions in zips of ``<video>_caption.json``, clips in zips of ``<video>/<clip>.mp4``.

    Only ``caption.content`` is learned. Voice-over, title and camera are not: the first two cannot
    be seen, the last is no description. Where ``integrity`` is false some clips have no caption:
    the others stay.
    """

    reader: ClassVar[Reader] = "json_files"

    def record_files(self, raw: Path) -> list[Path]:
        """The zips of captions; where there is none, the folder that it was unpacked to."""
        found: list[Path] = []
        for part in ("long", "short"):
            name = _CAPTIONS.format(part=part)
            zips = visible(raw, raw.rglob(f"{name}.zip"))
            folders = visible(raw, (path for path in raw.rglob(name) if path.is_dir()))
            found += zips[:1] or folders[:1]
        return found

    def archives(self, raw: Path) -> list[Path]:
        """The zips of clips; those of whole videos are not needed."""
        files = (path for path in raw.rglob("*_clips/*") if is_archive(path))
        return visible(raw, files)

    def records(self, row: dict[str, Any], file: str) -> Iterator[Record | LeftOutError]:
        """Take every clip of the video that has a caption."""
        part = "short" if "vript_short" in file else "long"
        meta = object_of(row.get("meta"), "meta")
        clips = object_of(row.get("data"), "data")
        video = meta.get("video_id") or stem_of(file).removesuffix("_caption")
        if not clips:
            raise LeftOutError("no_caption", f"no clip of {video!r} has a caption; expected one")
        for clip, entry in clips.items():
            try:
                yield self._record(part, str(video), clip, object_of(entry, clip))
            except LeftOutError as problem:
                yield problem

    def _record(self, part: str, video: str, clip: str, entry: dict[str, Any]) -> Record:
        video = str(entry.get("video_id") or video)
        caption = object_of(entry.get("caption"), f"caption of {clip}").get("content")
        answer = caption_of(caption, f"the caption of {clip}")
        name = native_id(part, clip)
        assert name is not None
        return Record(
            native_id=name,
            turns=[("user", pick_prompt(VRIPT, name)), ("assistant", answer)],
            media=[
                RawMedium(
                    kind="video",
                    paths=below((f"vript_{part}_videos_clips", ""), f"{video}/{clip}.mp4"),
                )
            ],
            subset=part,
        )
