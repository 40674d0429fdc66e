"""LLaVA's data sets: OneVision (parquet), M4-Instruct and LLaVA-Video-178K (JSON and archives)."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from smolvlm2.data.geometry import FLAGS
from smolvlm2.data.ledger import LeftOutError
from smolvlm2.data.sources.archives import is_archive
from smolvlm2.data.sources.fields import (
    archives_below,
    below,
    clip_paths,
    embedded_image,
    native_id,
    paths_of,
    stem_of,
    turns_of,
    visible,
)
from smolvlm2.data.sources.record import Adapter, RawMedium, Reader, Record

REFUSAL = re.compile(
    r"^\W*(i\W?m|i am) (very |so |really )?(sorry|unable)"
    r"|^\W*(sorry|i apologi[sz]e|unfortunately)[, ]+(but )?(i|as an ai)\b"
    r"|^\W*(i|we) (can ?not|can\W?t) (assist|help|provide|fulfil|answer|see|view)"
    r"|^\W*as an ai\b",
    re.IGNORECASE,
)
"""Answers that begin like this refuse (LLaVA-NeXT issue 158: many in M4-Instruct)."""
_ANSWERING = ("gpt", "assistant", "model")
HOUND_FRAME_RATE = 2.0
"""Frames a second in LLaVA-Hound's folders."""
_HOUND = "llava_hound"
_JSON_ONLY = ("ureader_kg", "ureader_qa", "cambrian")
"""Beginnings of the OneVision folders that are no parquet."""


@dataclass(frozen=True, kw_only=True)
class LlavaOneVision(Adapter):
    """Parquet rows with at most one embedded image; a subset is a folder.

    Text subsets have no image, or no such column. LLaVA-OneVision-1.5 is laid out alike, and spells
    some turns as ``role`` and ``content``. The folders that hold JSON and archives instead
    (``ureader_kg``, ``ureader_qa``, ``cambrian``) are read by `LlavaOneVisionJson`.
    """

    reader: ClassVar[Reader] = "parquet"
    columns: ClassVar[tuple[str, ...]] = ("conversations",)
    optional_columns: ClassVar[tuple[str, ...]] = ("id", "image")
    placeholders: ClassVar[tuple[str, ...]] = ("<image>",)

    def record_files(self, raw: Path) -> list[Path]:
        """All parquet files, by name."""
        return visible(raw, raw.rglob("*.parquet"))

    def archives(self, raw: Path) -> list[Path]:
        """None: images are in the rows."""
        return []

    def records(self, row: dict[str, Any], file: str) -> Iterator[Record]:
        """Take the conversation and the image, if there is one."""
        subset = file.rpartition("/")[0]
        image = row.get("image")
        images = image if isinstance(image, list) else [] if image is None else [image]
        yield Record(
            native_id=native_id(subset, row.get("id")),
            turns=turns_of(row["conversations"]),
            media=[embedded_image(image) for image in images],
            subset=subset,
        )


@dataclass(frozen=True, kw_only=True)
class LlavaOneVisionJson(Adapter):
    """Folders of LLaVA-OneVision-Data with annotations and archives, as a source of its own.

    How paths are written there was not confirmed; both likely forms are looked for.
    """

    reader: ClassVar[Reader] = "json"
    placeholders: ClassVar[tuple[str, ...]] = ("<image>",)

    def record_files(self, raw: Path) -> list[Path]:
        """JSON and JSON lines in those folders, by name."""
        files = visible(raw, [*raw.rglob("*.json"), *raw.rglob("*.jsonl")])
        return [file for file in files if file.relative_to(raw).parts[0].startswith(_JSON_ONLY)]

    def archives(self, raw: Path) -> list[Path]:
        """Archives in those folders, by name."""
        files = archives_below(raw)
        return [file for file in files if file.relative_to(raw).parts[0].startswith(_JSON_ONLY)]

    def records(self, row: dict[str, Any], file: str) -> Iterator[Record]:
        """Take the conversation; images lie in the folder, or are named with it."""
        folder = file.rpartition("/")[0]
        subset = folder.partition("/")[0]
        yield Record(
            native_id=native_id(subset, row.get("id")),
            turns=turns_of(row.get("conversations")),
            media=[
                RawMedium(kind="image", paths=below((folder, subset, ""), path))
                for path in paths_of(row.get("image"))
            ],
            subset=subset,
        )


@dataclass(frozen=True, kw_only=True)
class M4Instruct(Adapter):
    """Interleaved images; one JSON, one zip a source, image paths that begin with the source."""

    reader: ClassVar[Reader] = "json"
    placeholders: ClassVar[tuple[str, ...]] = ("<image>",)

    def record_files(self, raw: Path) -> list[Path]:
        """The annotations; ``m4_instruct_video.json`` needs frames that are published elsewhere."""
        return sorted(raw.glob("m4_instruct_annotations*.json"))

    def archives(self, raw: Path) -> list[Path]:
        """Zips and tars at the top."""
        return visible(raw, (path for path in raw.iterdir() if is_archive(path)))

    def records(self, row: dict[str, Any], file: str) -> Iterator[Record]:
        """Take the conversation with its inline images; other splits are refused."""
        metadata = row.get("metadata")
        metadata = metadata if isinstance(metadata, dict) else {}
        split = metadata.get("split", "train")
        if split != "train":
            raise LeftOutError("non_train_split", f"metadata.split is {split!r}; expected 'train'")
        subset = str(metadata.get("dataset") or "")
        turns = turns_of(row.get("conversations"))
        has_swapped = subset == "twitter_post"
        answers_first = bool(turns) and turns[0][0] in _ANSWERING
        answering = ("human", "user") if has_swapped and answers_first else _ANSWERING
        refuses = any(
            # `match`: `search` would try to begin at every character of an answer.
            role in answering and isinstance(text, str) and REFUSAL.match(text)
            for role, text in turns
        )
        yield Record(
            native_id=native_id(subset, row.get("sample_id")),
            turns=turns,
            media=[
                RawMedium(kind="image", paths=below(("",), path))
                for path in paths_of(row.get("image"))
            ],
            subset=subset,
            flags=FLAGS["refusal"] if refuses else 0,
            swap_roles=has_swapped,
        )


@dataclass(frozen=True, kw_only=True)
class LlavaVideo(Adapter):
    """Clips in ``<data_source>/*_videos_N.tar.gz``; ``<image>`` in the text stands for the clip.

    A subset is an annotation file. LLaVA-Hound's clips are folders of frames from a companion
    repository placed in ``llava_hound``.
    """

    reader: ClassVar[Reader] = "json"
    placeholders: ClassVar[tuple[str, ...]] = ("<image>", "<video>")

    def record_files(self, raw: Path) -> list[Path]:
        """Every ``*_processed.json``, by name."""
        return visible(raw, raw.rglob("*_processed.json"))

    def archives(self, raw: Path) -> list[Path]:
        """Every archive, by name; members unpack beside it."""
        return archives_below(raw)

    def records(self, row: dict[str, Any], file: str) -> Iterator[Record]:
        """Take the conversation; the clip lies at ``<data_source>/<video>``."""
        folder = file.rpartition("/")[0]
        subset = stem_of(file).removesuffix("_processed")
        data_source = str(row.get("data_source") or folder)
        paths = clip_paths(row.get("video"))
        if folder.rpartition("/")[2] == _HOUND:
            media = [
                RawMedium(kind="video", paths=hound_folders(path), frame_rate=HOUND_FRAME_RATE)
                for path in paths
            ]
        else:
            # `data_source` and the folder's name do not always agree.
            media = [
                RawMedium(kind="video", paths=below((data_source, folder), path)) for path in paths
            ]
        yield Record(
            native_id=native_id(subset, row.get("id")),
            turns=turns_of(row.get("conversations")),
            media=media,
            subset=subset,
        )


def hound_folders(path: str) -> tuple[str, ...]:
    """Where a clip's frames may lie: as the row says, or by its id in ``train_300k``.

    How the frames are packed there was not confirmed; rows name a folder, or a clip that was one.

    Args:
        path: The row's ``video``.
    """
    if path.startswith("/") or ".." in path.split("/"):
        return (path,)
    folder = path.removesuffix(".mp4").rstrip("/")
    clip = folder.rpartition("/")[2]
    places = (f"{_HOUND}/{folder}", f"{_HOUND}/train_300k/{clip}", f"{_HOUND}/{clip}", folder)
    return tuple(dict.fromkeys(places))
