"""What the planner knows of each sample: integers only."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from smolvlm2.errors import PlanError

MODALITIES = ("text", "image", "multi-image", "video")
"""Names of the modality codes 0 .. 3."""


@dataclass(kw_only=True)
class SourceTable:
    """The admitted samples of one source under a recipe.

    All arrays have one entry a sample, in the source's row order.
    """

    name: str
    """Name of the source, for messages and shares."""
    rows: NDArray[np.int64]
    """Row in the source's manifest."""
    tiles: NDArray[np.int32]
    """Tiles through the vision encoder."""
    tokens: NDArray[np.int32]
    """Tokens of the conversation, visual tokens included."""
    supervised: NDArray[np.int32]
    """Tokens with loss."""
    messages: NDArray[np.int32]
    """Messages kept: a conversation over the recipe's length loses turns from its end."""
    modality: NDArray[np.uint8]
    """Index into `MODALITIES`."""
    excluded: dict[str, int]
    """Rows that the recipe leaves out, counted by reason."""
    cut: int = 0
    """Samples that lost turns."""
    content: str = ""
    """Hash of the source's rows: the plan's digest covers what the samples say, too."""

    def __len__(self) -> int:
        return len(self.rows)


@dataclass(kw_only=True)
class Samples:
    """References to samples of several sources, one entry each."""

    source: NDArray[np.int32]
    """Index of the source."""
    index: NDArray[np.int64]
    """Index into that source's `SourceTable`."""
    epoch: NDArray[np.int32]
    """How many times the source has been gone through before."""

    def __len__(self) -> int:
        return len(self.source)

    def take(self, chosen: NDArray[np.int64]) -> "Samples":
        """The samples at these places."""
        return Samples(
            source=self.source[chosen], index=self.index[chosen], epoch=self.epoch[chosen]
        )

    def column(self, tables: list[SourceTable], name: str) -> NDArray[np.int64]:
        """A column of the source tables for these samples, as int64."""
        values = np.zeros(len(self), dtype=np.int64)
        for source, table in enumerate(tables):
            here = self.source == source
            values[here] = getattr(table, name)[self.index[here]]
        return values


def check_tables(tables: list[SourceTable], weights: list[float]) -> None:
    """Refuse a mixture that cannot be sampled.

    Raises:
        PlanError: No source, a weight that is not positive, or a source without samples.
    """
    if not tables:
        raise PlanError("the mixture has no sources; add entries under data.mixture")
    for table, weight in zip(tables, weights, strict=True):
        if not weight > 0:
            raise PlanError(
                f"source {table.name!r} has weight {weight}; expected a positive share, or "
                f"remove the entry"
            )
        if not len(table):
            reasons = ", ".join(f"{count} {name}" for name, count in table.excluded.items())
            raise PlanError(
                f"source {table.name!r} has no samples left under this recipe"
                + (f" (left out: {reasons})" if reasons else "")
                + "; remove it from the mixture or widen the recipe's limits"
            )
