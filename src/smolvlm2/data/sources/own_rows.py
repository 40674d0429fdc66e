"""A user's own data, in the layouts that people have: chat messages, LLaVA rows, Cauldron texts."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

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

CONVERSATIONS = ("messages", "conversations", "texts")
"""Keys of a conversation: as chat templates have it, as LLaVA has it, as The Cauldron has it."""
KINDS: tuple[Literal["image", "video"], ...] = ("image", "video")
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
        return visible(raw, (path for path in raw.rglob("*.json*") if path.is_file()))

    def archives(self, raw: Path) -> list[Path]:
        """Every archive, by name; members are found as if unpacked beside it."""
        return archives_below(raw)

    def records(self, row: dict[str, Any], file: str) -> Iterator[Record]:
        """Take the conversation and the media that it, or the row, names."""
        folder, subset = file.rpartition("/")[0], stem_of(file)
        turns, named = _conversation(row)
        media = [
            RawMedium(kind=kind, paths=below((folder, ""), path))
            for kind, path in (_listed(row) if named is None else named)
        ]
        yield Record(
            native_id=native_id(subset, row.get("id")),
            turns=turns,
            media=in_marked_order(media, turns) if named is None else media,
            subset=subset,
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
        return visible(raw, (path for path in raw.rglob("*.parquet") if path.is_file()))

    def archives(self, raw: Path) -> list[Path]:
        """None: images are in the rows."""
        return []

    def records(self, row: dict[str, Any], file: str) -> Iterator[Record]:
        """Take the conversation and the row's images."""
        turns, named = _conversation(row)
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
        )


def _listed(row: dict[str, Any]) -> list[Named]:
    """Media that a row lists beside its conversation: images, then videos."""
    return [
        (kind, path)
        for kind in KINDS
        for key in (kind, f"{kind}s")
        for path in paths_of(row.get(key))
    ]


def _conversation(row: dict[str, Any]) -> tuple[list[tuple[Any, Any]], list[Named] | None]:
    """Turns of a row, and kind and path of the media that its messages name; None: none does.

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
        return [(role, pair.get(role)) for pair in pairs for role in roles], None
    turns, named, unnamed = [], [], 0
    for role, content in turns_of(row[found]):
        if not isinstance(content, list):
            turns.append((role, content))
            continue
        texts = []
        for item in objects_of(content, "content"):
            kind = item.get("type")
            if kind == "text":
                texts.append(str(item.get("text") or ""))
                continue
            if kind not in KINDS:
                raise LeftOutError(
                    "unreadable_record",
                    f"an item of type {kind!r}; expected text, image or video",
                )
            path = item.get("path") or item.get(kind)
            unnamed += path is None
            named += [(kind, each) for each in paths_of(path)]
            texts.append(f"<{kind}>")
        turns.append((role, "".join(texts)))
    if named and unnamed:
        raise LeftOutError(
            "unreadable_record",
            f"{len(named)} items of the messages name a file and {unnamed} do not; name all of "
            "them, or none and list the files under 'images' and 'videos'",
        )
    return turns, named or None


def own_adapter(raw: Path) -> str:
    """The reader for a folder of own data: ``module:Class``, by what lies in it."""
    rows = any(True for path in raw.rglob("*.json*") if path.is_file())
    return "own_rows:OwnRows" if rows or not any(raw.rglob("*.parquet")) else "own_rows:OwnParquet"
