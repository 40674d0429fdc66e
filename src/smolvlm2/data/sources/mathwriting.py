"""MathWriting: images of handwritten formulas and their LaTeX."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from smolvlm2.data.ledger import LeftOutError
from smolvlm2.data.sources.fields import caption_of, embedded_image, visible
from smolvlm2.data.sources.prompts import MATHWRITING, pick_prompt
from smolvlm2.data.sources.record import Adapter, Reader, Record

_LABELS = ("latex", "text", "label", "formula", "ground_truth")
"""Columns that may hold the formula, the likeliest first: the hub's names were not confirmed."""


@dataclass(frozen=True, kw_only=True)
class MathWriting(Adapter):
    """Parquet rows of an ``image`` and its formula, under one of several names."""

    reader: ClassVar[Reader] = "parquet"
    columns: ClassVar[tuple[str, ...]] = ("image",)
    optional_columns: ClassVar[tuple[str, ...]] = _LABELS

    def record_files(self, raw: Path) -> list[Path]:
        """All parquet files, by name."""
        return visible(raw, raw.rglob("*.parquet"))

    def archives(self, raw: Path) -> list[Path]:
        """None: images are in the rows."""
        return []

    def records(self, row: dict[str, Any], file: str) -> Iterator[Record]:
        """Take the formula as the answer to one of our own questions."""
        found = [name for name in _LABELS if name in row]
        if not found:
            raise LeftOutError(
                "unreadable_record", f"no column with the formula; expected one of {_LABELS}"
            )
        formula = caption_of(row[found[0]], f"the formula in {found[0]!r}")
        image = embedded_image(row["image"])
        assert image.data is not None
        # Rows have no id: the picture stands in for it, so that a formula written twice is asked
        # for in more than one way.
        name = hashlib.blake2b(image.data, digest_size=8).hexdigest()
        prompt = pick_prompt(MATHWRITING, name)
        yield Record(
            native_id=None,
            turns=[("user", prompt), ("assistant", formula)],
            media=[image],
        )
