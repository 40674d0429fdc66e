"""The Cauldron, and sets laid out like it (Docmatix, FineVision): images and question pairs."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from smolvlm2.data.sources.fields import embedded_image, objects_of, visible
from smolvlm2.data.sources.record import Adapter, Reader, Record

_OTHER_CONFIGS = ("pdf", "zero-shot-exp")
"""Docmatix again as files to be rendered, and as an experiment with a test split."""


@dataclass(frozen=True, kw_only=True)
class ImagesAndTexts(Adapter):
    """Parquet rows of ``images`` and ``texts``; one row, one sample, its questions as turns.

    A config is a folder. Docmatix keeps its config ``images`` in ``data``. FineVision's ratings of
    each turn are further columns, which are not read.
    """

    reader: ClassVar[Reader] = "parquet"
    columns: ClassVar[tuple[str, ...]] = ("images", "texts")

    def record_files(self, raw: Path) -> list[Path]:
        """All parquet files, by name, except those of Docmatix' other configs."""
        files = visible(raw, raw.rglob("*.parquet"))
        return [f for f in files if f.relative_to(raw).parts[0] not in _OTHER_CONFIGS]

    def archives(self, raw: Path) -> list[Path]:
        """None: images are in the rows."""
        return []

    def records(self, row: dict[str, Any], file: str) -> Iterator[Record]:
        """Take user and assistant of every text; rows have no id of their own."""
        turns: list[tuple[Any, Any]] = []
        for pair in objects_of(row["texts"], "texts"):
            turns += [("user", pair.get("user")), ("assistant", pair.get("assistant"))]
        folder = file.rpartition("/")[0]
        yield Record(
            native_id=None,
            turns=turns,
            media=[embedded_image(image) for image in row["images"] or []],
            subset="images" if folder == "data" else folder,
        )
