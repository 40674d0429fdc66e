"""The Cauldron, and sets laid out like it (Docmatix, FineVision): images and question pairs."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from smolvlm2.data.ledger import LeftOutError
from smolvlm2.data.sources.record import RawMedium, Reader, Record


@dataclass(frozen=True, kw_only=True)
class ImagesAndTexts:
    """Parquet rows of ``images`` and ``texts``; one row, one sample, its questions as turns."""

    source: str
    licence: str
    reader: ClassVar[Reader] = "parquet"
    columns: ClassVar[tuple[str, ...]] = ("images", "texts")
    optional_columns: ClassVar[tuple[str, ...]] = ()
    placeholders: ClassVar[tuple[str, ...]] = ()

    def record_files(self, raw: Path) -> list[Path]:
        """All parquet files, by name."""
        return sorted(raw.rglob("*.parquet"))

    def archives(self, raw: Path) -> list[Path]:
        """None: images are in the rows."""
        return []

    def records(self, row: dict[str, Any], file: str) -> Iterator[Record]:
        """Take user and assistant of every text; rows have no id of their own."""
        if any(pair is None for pair in row["texts"] or []):
            raise LeftOutError("unreadable_record", "one of 'texts' is null")
        turns: list[tuple[Any, Any]] = []
        for pair in row["texts"] or []:
            turns += [("user", pair.get("user")), ("assistant", pair.get("assistant"))]
        yield Record(
            native_id=None,
            turns=turns,
            media=[embedded_image(image) for image in row["images"] or []],
            subset=file.rpartition("/")[0],
        )


def embedded_image(image: dict[str, Any] | None) -> RawMedium:
    """Bytes of an ``Image`` column's value.

    Raises:
        LeftOutError: The value has no bytes: only a path on the publisher's disk.
    """
    if not image or not image.get("bytes"):
        path = image.get("path") if image else None
        raise LeftOutError("missing_media", f"image without bytes (path {path!r})")
    return RawMedium(kind="image", data=image["bytes"])
