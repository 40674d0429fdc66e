"""What the planner knows of each sample: integers only."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from smolvlm2.errors import PlanError
from smolvlm2.plan.permutation import derive_keys, permute

MODALITIES = ("text", "image", "multi-image", "video")
"""Names of the modality codes 0 .. 3."""
LEAST_SHARE = 1e-18
"""With less a source would not come in any run; times in an order go up to its inverse."""
RECORD = np.dtype(
    [
        ("rows", "<i8"),
        ("tiles", "<i4"),
        ("tokens", "<i4"),
        ("supervised", "<i4"),
        ("messages", "<i4"),
        ("modality", "u1"),
    ]
)
"""One sample on disk. Its numbers lie together, so that a sample drawn at random costs one page."""


@dataclass(kw_only=True, frozen=True)
class Part:
    """Which entries of the columns belong to a table, as ranges: no list of samples exists."""

    starts: NDArray[np.int64]
    """``(r,)`` first entry of each range."""
    offsets: NDArray[np.int64]
    """``(r + 1,)`` samples before each range, ascending from 0; the last is their number."""
    first: int = 0
    """First sample taken, in the order of the ranges or, with a key, in shuffled order."""
    count: int = 0
    """Samples taken."""
    key: int | None = None
    """Chooses a fixed shuffle in which the samples are counted; None: the order of the ranges."""

    def places(self, index: NDArray[np.int64]) -> NDArray[np.int64]:
        """Entries of the columns for samples of the table."""
        chosen = index + self.first
        if self.key is not None:
            chosen = permute(chosen, int(self.offsets[-1]), self.key)
        number = np.searchsorted(self.offsets, chosen, side="right") - 1
        return self.starts[number] + chosen - self.offsets[number]


@dataclass(kw_only=True)
class SourceTable:
    """The admitted samples of one entry of a mixture, under a recipe.

    All columns have one entry a sample; they may be memory-mapped and hold other entries' samples
    too, then ``part`` says which are meant.
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
    part: Part | None = None
    """Which entries of the columns are meant; None: all, in order."""
    totals: dict[str, int] = field(default_factory=dict)
    """Known sums ``tiles``, ``tokens``, ``supervised`` and maxima ``max_tiles``, ``max_tokens``,
    over ``samples`` samples: all that the part chooses from. Computed where missing."""
    records: Path | None = None
    """File that memory-mapped columns lie in."""
    digest: str = ""
    """Hash of the columns where it is known; computed where missing."""
    chances: tuple[int, ...] = (1,)
    """A sample has one entry for each order of its turns and in it for each budget of tiles, one
    behind the other; these are the budgets' chances, integers in any unit. A part's ranges count
    samples, not entries."""
    turn_orders: int = 0
    """Orders of a sample's turns, each epoch of the source has the next; 0: as published."""
    budget_key: int = 0
    """Chooses the draws of budgets."""

    def __len__(self) -> int:
        return len(self.rows) // self.variants if self.part is None else self.part.count

    @property
    def variants(self) -> int:
        """Entries of a sample."""
        return max(self.turn_orders, 1) * len(self.chances)

    def column(self, name: str, index: NDArray[np.int64] | None = None) -> NDArray[np.int64]:
        """Values of a column for these samples of the table, or for all, as int64.

        With several entries a sample these are the values of the first epoch.
        """
        if index is None:
            index = np.arange(len(self))
        return np.asarray(getattr(self, name)[self.entries(index, 0)], dtype=np.int64)

    def entries(
        self, index: NDArray[np.int64], epoch: int | NDArray[np.int32]
    ) -> NDArray[np.int64]:
        """Entries of the columns for samples in an epoch of theirs."""
        places = index if self.part is None else self.part.places(index)
        if self.variants == 1:
            return places
        first = places * self.variants
        order = self.turn_order(epoch)
        found = first if order is None else first + order * len(self.chances)
        if len(self.chances) == 1:
            return found
        return found + self._budgets(self.rows[first], epoch)

    def turn_order(self, epoch: Any) -> Any:
        """Number of the order of turns in an epoch or in several; None: as published."""
        return epoch % self.turn_orders if self.turn_orders else None

    def budgets(
        self, index: NDArray[np.int64], epoch: int | NDArray[np.int32]
    ) -> NDArray[np.int64]:
        """Which budget of tiles each of these samples has in an epoch of theirs."""
        return self.entries(index, epoch) % len(self.chances)

    def _budgets(
        self, rows: NDArray[np.int64], epoch: int | NDArray[np.int32]
    ) -> NDArray[np.int64]:
        keys = derive_keys(self.budget_key, rows, epoch)
        drawn = keys % np.uint64(sum(self.chances))
        return np.searchsorted(np.cumsum(self.chances), drawn.astype(np.int64), side="right")

    def total(self, name: str) -> int:
        """A sum or maximum over all samples, see ``totals``."""
        if name not in self.totals:
            tiles, tokens = self.column("tiles"), self.column("tokens")
            self.totals |= {
                "samples": len(self),
                "tiles": int(tiles.sum()),
                "tokens": int(tokens.sum()),
                "supervised": int(self.column("supervised").sum()),
                "max_tiles": int(tiles.max(initial=0)),
                "max_tokens": int(tokens.max(initial=0)),
            }
        return self.totals[name]

    def mean(self, name: str) -> float:
        """Mean ``tiles``, ``tokens`` or ``supervised`` of a sample."""
        return self.total(name) / max(self.total("samples"), 1)

    def hash(self) -> str:
        """Hash of everything the samples of this table are made of."""
        found = hashlib.sha256(f"{self.name} {self.content} {self.digest}".encode())
        if not self.digest:
            for name in RECORD.names or ():
                found.update(np.ascontiguousarray(getattr(self, name)).tobytes())
        if len(self.chances) > 1:
            found.update(repr((self.chances, self.budget_key)).encode())
        if self.turn_orders:
            found.update(f"turns in {self.turn_orders} orders".encode())
        if self.part is not None:
            part = self.part
            found.update(repr((part.first, part.count, part.key)).encode())
            found.update(part.starts.tobytes() + part.offsets.tobytes())
        return found.hexdigest()

    # A table that goes to a worker takes the name of its file along, not 24 million rows.
    def __getstate__(self) -> dict[str, Any]:
        state = dict(vars(self))
        if self.records is not None:
            for name in RECORD.names or ():
                if isinstance(state[name], np.memmap):
                    state[name] = None
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        if self.records is not None:
            columns = map_records(self.records)
            vars(self).update({name: c for name, c in columns.items() if state[name] is None})


def map_records(path: Path) -> dict[str, np.ndarray]:
    """The columns of a file of `RECORD`, memory-mapped."""
    mapped = np.load(path, mmap_mode="r", allow_pickle=False).reshape(-1)
    return {name: mapped[name] for name in RECORD.names or ()}


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
        return self.columns(tables, (name,))[name]

    def columns(
        self, tables: list[SourceTable], names: tuple[str, ...]
    ) -> dict[str, NDArray[np.int64]]:
        """Several columns; the samples are looked up once."""
        found = {name: np.zeros(len(self), dtype=np.int64) for name in names}
        for source in np.unique(self.source).tolist():
            here = np.flatnonzero(self.source == source)
            table = tables[source]
            entries = table.entries(self.index[here], self.epoch[here])
            for name, values in found.items():
                values[here] = getattr(table, name)[entries]
        return found

    def budgets(self, tables: list[SourceTable]) -> NDArray[np.int64]:
        """Which of its budgets of tiles each sample has."""
        found = np.zeros(len(self), dtype=np.int64)
        for source in np.unique(self.source).tolist():
            here = np.flatnonzero(self.source == source)
            found[here] = tables[source].budgets(self.index[here], self.epoch[here])
        return found


class NamedSamples(Protocol):
    """What an order needs to know of a source."""

    @property
    def name(self) -> str:
        """Of the source; decides its shuffle."""

    @property
    def excluded(self) -> dict[str, int]:
        """Rows left out, by reason, for a message."""

    def __len__(self) -> int: ...


def check_tables(tables: Sequence[NamedSamples], weights: list[float]) -> None:
    """Refuse a mixture that cannot be sampled.

    Raises:
        PlanError: No source, a weight or a share that is not positive, or a source without samples.
    """
    if not tables:
        raise PlanError("the mixture has no sources; add entries under data.mixture")
    total = sum(weights)
    for table, weight in zip(tables, weights, strict=True):
        if not (weight > 0 and weight / total > LEAST_SHARE):
            raise PlanError(
                f"source {table.name!r} has weight {weight} of {total}; expected a positive share, "
                f"or remove the entry"
            )
        if not len(table):
            reasons = ", ".join(f"{count} {name}" for name, count in table.excluded.items())
            raise PlanError(
                f"source {table.name!r} has no samples left under this recipe"
                + (f" (left out: {reasons})" if reasons else "")
                + "; remove it from the mixture or widen the recipe's limits"
            )
