"""LLaVA's data sets: OneVision (parquet), M4-Instruct and LLaVA-Video-178K (JSON and archives)."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

from smolvlm2.data.geometry import FLAGS
from smolvlm2.data.ledger import LeftOutError
from smolvlm2.data.sources.archives import is_archive
from smolvlm2.data.sources.cauldron import embedded_image
from smolvlm2.data.sources.record import RawMedium, Reader, Record

REFUSAL = re.compile(
    r"^\W*(i\W?m|i am) (very |so |really )?(sorry|unable)"
    r"|^\W*(sorry|i apologi[sz]e|unfortunately)[, ]+(but )?(i|as an ai)\b"
    r"|^\W*(i|we) (can ?not|can\W?t) (assist|help|provide|fulfil|answer|see|view)"
    r"|^\W*as an ai\b",
    re.IGNORECASE,
)
"""Answers that begin like this refuse (LLaVA-NeXT issue 158: many in M4-Instruct)."""


@dataclass(frozen=True, kw_only=True)
class LlavaOneVision:
    """Parquet rows with at most one embedded image; a subset is a folder."""

    source: str
    licence: str
    reader: ClassVar[Reader] = "parquet"
    columns: ClassVar[tuple[str, ...]] = ("conversations",)
    optional_columns: ClassVar[tuple[str, ...]] = ("id", "image")
    placeholders: ClassVar[tuple[str, ...]] = ("<image>",)

    def record_files(self, raw: Path) -> list[Path]:
        """All parquet files, by name."""
        return sorted(raw.rglob("*.parquet"))

    def archives(self, raw: Path) -> list[Path]:
        """None: images are in the rows."""
        return []

    def records(self, row: dict[str, Any], file: str) -> Iterator[Record]:
        """Take the conversation and the image, if there is one."""
        subset = file.rpartition("/")[0]
        image = row.get("image")
        yield Record(
            native_id=_native_id(subset, row.get("id")),
            turns=_turns(row["conversations"]),
            media=[] if image is None else [embedded_image(image)],
            subset=subset,
        )


@dataclass(frozen=True, kw_only=True)
class M4Instruct:
    """Interleaved images; one JSON, one zip a source, image paths that begin with the source."""

    source: str
    licence: str
    reader: ClassVar[Reader] = "json"
    columns: ClassVar[tuple[str, ...]] = ()
    optional_columns: ClassVar[tuple[str, ...]] = ()
    placeholders: ClassVar[tuple[str, ...]] = ("<image>",)

    def record_files(self, raw: Path) -> list[Path]:
        """The annotations; ``m4_instruct_video.json`` needs frames that are published elsewhere."""
        return sorted(raw.glob("m4_instruct_annotations*.json"))

    def archives(self, raw: Path) -> list[Path]:
        """Zips and tars at the top."""
        return sorted(path for path in raw.iterdir() if is_archive(path))

    def records(self, row: dict[str, Any], file: str) -> Iterator[Record]:
        """Take the conversation with its inline images; other splits are refused."""
        metadata = row.get("metadata")
        metadata = metadata if isinstance(metadata, dict) else {}
        split = metadata.get("split", "train")
        if split != "train":
            raise LeftOutError("non_train_split", f"metadata.split is {split!r}; expected 'train'")
        subset = str(metadata.get("dataset") or "")
        turns = _turns(row.get("conversations"))
        refuses = any(
            role in ("gpt", "assistant") and isinstance(text, str) and REFUSAL.search(text)
            for role, text in turns
        )
        yield Record(
            native_id=_native_id(subset, row.get("sample_id")),
            turns=turns,
            media=_paths("image", row.get("image"), prefix=""),
            subset=subset,
            flags=FLAGS["refusal"] if refuses else 0,
            swap_roles=subset == "twitter_post",
        )


@dataclass(frozen=True, kw_only=True)
class LlavaVideo:
    """Clips in ``<data_source>/*_videos_N.tar.gz``; ``<image>`` in the text stands for the clip."""

    source: str
    licence: str
    reader: ClassVar[Reader] = "json"
    columns: ClassVar[tuple[str, ...]] = ()
    optional_columns: ClassVar[tuple[str, ...]] = ()
    placeholders: ClassVar[tuple[str, ...]] = ("<image>", "<video>")

    def record_files(self, raw: Path) -> list[Path]:
        """Every ``*_processed.json``, by name."""
        return sorted(raw.rglob("*_processed.json"))

    def archives(self, raw: Path) -> list[Path]:
        """Every archive, by name; members unpack beside it."""
        return sorted(path for path in raw.rglob("*") if is_archive(path))

    def records(self, row: dict[str, Any], file: str) -> Iterator[Record]:
        """Take the conversation; the clip lies at ``<data_source>/<video>``."""
        subset = file.rpartition("/")[2].removesuffix(".json").removesuffix("_processed")
        data_source = row.get("data_source") or file.rpartition("/")[0]
        yield Record(
            native_id=_native_id(subset, row.get("id")),
            turns=_turns(row.get("conversations")),
            media=_paths("video", row.get("video"), prefix=f"{data_source}/"),
            subset=subset,
        )


def _turns(conversation: Any) -> list[tuple[Any, Any]]:
    """Role and text of each turn, under ``from`` and ``value`` or ``role`` and ``content``."""
    if conversation is None:
        return []
    if not isinstance(conversation, list) or not all(isinstance(t, dict) for t in conversation):
        raise LeftOutError("unreadable_record", "'conversations' is no list of objects")
    return [
        (turn["from"], turn.get("value"))
        if turn.get("from") is not None
        else (turn.get("role"), turn.get("content"))
        for turn in conversation
    ]


def _paths(kind: Literal["image", "video"], value: Any, *, prefix: str) -> list[RawMedium]:
    paths = [value] if isinstance(value, str) else value or []
    if not isinstance(paths, list) or not all(isinstance(path, str) for path in paths):
        raise LeftOutError("unreadable_record", f"media are {value!r}; expected paths")
    # An absolute path stays absolute, so that it is seen to be unsafe.
    full = [path if path.startswith("/") else prefix + path for path in paths]
    return [RawMedium(kind=kind, paths=(path,)) for path in full]


def _native_id(subset: str, value: Any) -> str | None:
    """The row's own id below its subset, because ids are unique only there."""
    if value is None or value == "":
        return None
    return f"{subset}/{value}" if subset else str(value)
