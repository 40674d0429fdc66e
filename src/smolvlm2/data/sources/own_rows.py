"""A user's own data, in the layouts that people have: chat messages, LLaVA rows, Cauldron texts."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

from smolvlm2.data.inputs import read_consumed
from smolvlm2.data.ledger import LeftOutError
from smolvlm2.data.sources.fields import (
    archives_below,
    below,
    embedded_image,
    in_marked_order,
    native_id,
    objects_of,
    paths_of,
    stem_of,
    turns_of,
    visible,
)
from smolvlm2.data.sources.record import Adapter, RawMedium, Reader, Record
from smolvlm2.errors import DataError

CONVERSATIONS = ("messages", "conversations", "texts")
"""Keys of a conversation: as chat templates have it, as LLaVA has it, as The Cauldron has it."""
KINDS: tuple[Literal["image", "video"], ...] = ("image", "video")
_WRITTEN: dict[str, str] = {kind: f"<{kind}>" for kind in KINDS}
_UNWRITTEN: dict[str, str] = {kind: f"\ufdd0{kind}\ufdd1" for kind in KINDS}
"""Marks of media beside texts that spell the others: Unicode keeps these from being characters."""
_JSON, _PARQUET = re.compile(r"\.(nd)?json", re.I), re.compile(r"\.parquet$", re.I)
Named = tuple[Literal["image", "video"], str]
"""Kind and path of a medium."""


@dataclass(frozen=True, kw_only=True)
class OwnRows(Adapter):
    """JSON or JSON lines with media beside them, loose or in archives.

    Media are named by ``image``, ``images``, ``video`` or ``videos`` of the row, or by the items of
    its messages; paths are relative to the file of rows, or to the raw folder. A subset is a file.
    """

    reader: ClassVar[Reader] = "json"
    placeholders: ClassVar[tuple[str, ...]] = ("<image>", "<video>")

    def record_files(self, raw: Path) -> list[Path]:
        """Every JSON and JSON lines file, by name."""
        return _rows_below(raw, _JSON)

    def archives(self, raw: Path) -> list[Path]:
        """Every archive, by name; members are found as if unpacked beside it."""
        return archives_below(raw)

    def records(self, row: dict[str, Any], file: str) -> Iterator[Record]:
        """Take the conversation and the media that it, or the row, names."""
        folder, subset = file.rpartition("/")[0], stem_of(file)
        turns, named, marks = _conversation(row)
        media = [
            RawMedium(kind=kind, paths=below((folder, ""), path))
            for kind, path in (_listed(row) if named is None else named)
        ]
        yield Record(
            native_id=native_id(subset, row.get("id")),
            turns=turns,
            media=in_marked_order(media, turns, marks) if named is None else media,
            subset=subset,
            placeholders=marks,
        )


@dataclass(frozen=True, kw_only=True)
class OwnParquet(Adapter):
    """Parquet rows with a conversation and images in them, as ``datasets`` writes them.

    A subset is a folder.
    """

    reader: ClassVar[Reader] = "parquet"
    optional_columns: ClassVar[tuple[str, ...]] = ("id", "image", "images", *CONVERSATIONS)
    placeholders: ClassVar[tuple[str, ...]] = ("<image>",)

    def record_files(self, raw: Path) -> list[Path]:
        """Every parquet file, by name."""
        return _rows_below(raw, _PARQUET)

    def archives(self, raw: Path) -> list[Path]:
        """None: images are in the rows."""
        return []

    def records(self, row: dict[str, Any], file: str) -> Iterator[Record]:
        """Take the conversation and the row's images."""
        turns, named, marks = _conversation(row)
        if named:
            raise LeftOutError(
                "unreadable_record", "a message names a file; expected the bytes in 'images'"
            )
        images = row.get("images") or []
        one = row.get("image")
        subset = file.rpartition("/")[0]
        yield Record(
            native_id=native_id(subset, row.get("id")),
            turns=turns,
            media=[embedded_image(image) for image in [*([one] if one else []), *images]],
            subset=subset,
            placeholders=marks[:1],
        )


def _listed(row: dict[str, Any]) -> list[Named]:
    """Media that a row lists beside its conversation: images, then videos."""
    return [
        (kind, path)
        for kind in KINDS
        for key in (kind, f"{kind}s")
        for path in paths_of(row.get(key))
    ]


def _conversation(
    row: dict[str, Any],
) -> tuple[list[tuple[Any, Any]], list[Named] | None, tuple[str, ...]]:
    """Turns of a row, kind and path of the media that its messages name, and their marks.

    Media are None where no message names any.

    Raises:
        LeftOutError: The row has no conversation that is known, or it names some of its media.
    """
    found = next((key for key in CONVERSATIONS if row.get(key) is not None), None)
    if found is None:
        raise LeftOutError(
            "unreadable_record",
            f"keys are {sorted(row)}; expected one of {', '.join(CONVERSATIONS)}",
        )
    if found == "texts":
        pairs = objects_of(row[found], found)
        roles = ("user", "assistant")
        turns = [(role, pair.get(role)) for pair in pairs for role in roles]
        return turns, None, tuple(_WRITTEN.values())
    turns = turns_of(row[found], found)
    marks = _marks(turns)
    named: list[Named] = []
    unnamed = 0
    for place, (role, content) in enumerate(turns):
        if isinstance(content, list):
            text, media, without = _joined(content, marks)
            turns[place] = (role, text)
            named += media
            unnamed += without
        elif marks is _UNWRITTEN and isinstance(content, str) and role in ("user", "human"):
            for kind, written in _WRITTEN.items():
                content = content.replace(written, marks[kind])
            turns[place] = (role, content)
    if named and unnamed:
        raise LeftOutError(
            "unreadable_record",
            f"{len(named)} items of the messages name a file and {unnamed} do not; name all of "
            "them, or none and list the files under 'images' and 'videos'",
        )
    if unnamed and not any(row.get(key) for kind in KINDS for key in (kind, f"{kind}s")):
        raise LeftOutError(
            "unreadable_record",
            f"{unnamed} items of the messages name no file; expected 'path' in each, or the files "
            "under 'images' and 'videos' of the row",
        )
    return turns, named or None, tuple(marks.values())


def _marks(turns: list[tuple[Any, Any]]) -> dict[str, str]:
    """What marks media by kind: as written, unless a text beside items spells just that."""
    items = [item for _, content in turns if isinstance(content, list) for item in content]
    texts = [str(item.get("text")) for item in items if isinstance(item, dict)]
    spelled = any(written in text for text in texts for written in _WRITTEN.values())
    return _UNWRITTEN if spelled else _WRITTEN


def _joined(content: list[Any], marks: dict[str, str]) -> tuple[str, list[Named], int]:
    """Items of a message as one text, the media that they name, and how many they do not."""
    texts: list[str] = []
    named: list[Named] = []
    unnamed = 0
    for item in objects_of(content, "content"):
        kind = item.get("type")
        if kind == "text":
            texts.append(str(item.get("text") or ""))
            continue
        if kind not in KINDS:
            raise LeftOutError(
                "unreadable_record", f"an item of type {kind!r}; expected text, image or video"
            )
        path = item.get("path") or item.get(kind)
        unnamed += path is None
        named += [(kind, each) for each in paths_of(path)]
        texts.append(marks[kind])
    return "".join(texts), named, unnamed


def _rows_below(raw: Path, pattern: re.Pattern[str]) -> list[Path]:
    """Files of rows, by name, in whatever case their endings are written.

    A link that leads nowhere is one, too: opening it says so.
    """
    found = (path for path in raw.rglob("*") if pattern.search(path.name))
    return visible(raw, (path for path in found if path.is_file() or not path.exists()))


def own_adapter(raw: Path) -> str:
    """The reader for a folder of own data: ``module:Class``, by what lies, or lay, in it.

    Raises:
        DataError: It holds rows in JSON and in parquet, of which only one kind would be read.
    """
    gone = [name for name, entry in read_consumed(raw).items() if entry["kind"] == "rows"]
    first = [
        next(
            (
                name
                for name in (*map(str, _rows_below(raw, each)), *gone)
                if each.search(Path(name).name)
            ),
            "",
        )
        for each in (_JSON, _PARQUET)
    ]
    if all(first):
        raise DataError(
            f"{raw}: holds rows in JSON ({Path(first[0]).name}) and in parquet "
            f"({Path(first[1]).name}); a source has one kind: move one of them to a folder of its "
            "own, or away where it holds no rows"
        )
    return "own_rows:OwnParquet" if first[1] else "own_rows:OwnRows"
