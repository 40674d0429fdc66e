"""Published scores of SmolVLM checkpoints, to show beside one's own.

``published_scores.csv`` holds each with its source and how sure it is; nothing here is measured by
this package.
"""

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

FILE = Path(__file__).parent / "published_scores.csv"
SIZES = ("256M", "500M", "2.2B")
"""Columns of a table."""
_PREFERRED = ("SmolVLM2 model card", "paper", "SmolVLM v1 model card")
"""Sources, the most fitting first: the v1 cards describe checkpoints that saw no video."""


@dataclass(frozen=True)
class PublishedScore:
    """One row of the file."""

    benchmark: str
    size: str
    score: float
    """In percent."""
    source: str
    confidence: str
    """``secondary`` (a copy of the source was seen) or ``from memory``."""

    def __str__(self) -> str:
        return f"{self.score:.1f}{'' if self.confidence == 'secondary' else '?'}"


def published_scores() -> list[PublishedScore]:
    """All rows."""
    with FILE.open(encoding="utf-8", newline="") as stream:
        return [
            PublishedScore(
                row["benchmark"],
                row["model_size"],
                float(row["score"]),
                row["source"],
                row["confidence"],
            )
            for row in csv.DictReader(stream)
        ]


def published_score(names: Sequence[str], size: str) -> PublishedScore | None:
    """The most fitting published score of a benchmark for a model size, None without any."""
    rows = [row for row in published_scores() if row.benchmark in names and row.size == size]

    def preference(row: PublishedScore) -> int:
        starts = [row.source.startswith(source) for source in _PREFERRED]
        return starts.index(True) if any(starts) else len(_PREFERRED)

    return min(rows, key=preference, default=None)
