"""From geometry to what the planner sees: tiles, tokens and supervised tokens of every sample."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np

from smolvlm2.data.grouping import open_grouped
from smolvlm2.data.manifest import Manifest
from smolvlm2.data.mixture import MOST_TURN_ORDERS, MixtureEntry, MixtureSettings, match_subsets
from smolvlm2.errors import ConfigError
from smolvlm2.loading.admission import Admission, AdmittedRows, admitted_rows
from smolvlm2.plan.permutation import derive_key
from smolvlm2.plan.samples import Part, SourceTable
from smolvlm2.processing.lengths import LengthModel
from smolvlm2.processing.tokenizer import Tokenizer

TAKE_KEY = 0x7461
"""Sets the shuffle of ``take: random`` apart from all others."""
BUDGET_KEY = 0x6275
"""The same for budgets of tiles."""
TOLERANCE = 0.05
"""By how much an entry's samples may differ from what its mixture expects."""


@dataclass(kw_only=True)
class LimitSettings:
    """Which samples a recipe admits; what it leaves out is counted by reason."""

    max_tokens: int | None = None
    """Most tokens of a conversation, whole turns are cut from its end; default: the context."""
    max_images: int | None = None
    """Most images or clips of a sample; a sample with more is left out whole."""
    max_turns: int | None = None
    """Most pairs of question and answer of a conversation, the rest is cut from its end."""
    turn_orders: int = 0
    """Orders of a sample's questions: its source's epoch e has number e modulo this; 0: as
    published."""
    exclude: list[Literal["refusal", "speech_dependent"]] = field(
        default_factory=lambda: ["refusal", "speech_dependent"]
    )
    """Flags of prepare that leave a sample out."""

    def __post_init__(self) -> None:
        for name in ("max_tokens", "max_images", "max_turns"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"limits.{name} is {value}, expected at least 1")
        if not 0 <= self.turn_orders <= MOST_TURN_ORDERS:
            raise ConfigError(
                f"limits.turn_orders is {self.turn_orders}, expected 0 (as published) to "
                f"{MOST_TURN_ORDERS}"
            )


def open_sources(
    mixture: MixtureSettings, prepared: Path, tokenizer: Tokenizer
) -> dict[str, Manifest]:
    """The manifest of each source that a mixture names, opened once however many subsets it has.

    Rows about the same media are joined as ``group_by_media`` says.

    Raises:
        DataNotFoundError: A source is not prepared, or not for this tokenizer.
    """
    names = dict.fromkeys(entry.source for entry in mixture.entries)
    return {
        name: open_grouped(
            Manifest.open(prepared / name, tokenizer.key), mixture.group_by_media, tokenizer
        )
        for name in names
    }


def admit(
    entries: Sequence[MixtureEntry],
    sources: Mapping[str, Manifest],
    lengths: LengthModel,
    limits: LimitSettings,
    *,
    max_tokens: int,
    seed: int = 0,
) -> list[SourceTable]:
    """The samples of each entry of a mixture, under the recipe's limits.

    Args:
        entries: Sources, or some of their subsets.
        sources: Manifests by name, opened with token columns.
        lengths: Of the processor in use.
        limits: Of the recipe.
        max_tokens: Most tokens of a conversation.
        seed: Chooses the samples' budgets of tiles.

    Raises:
        ConfigError: An entry names a subset that its source does not have.
        DataError: A manifest was opened without token columns.
    """
    opened: dict[tuple[str, Admission], AdmittedRows] = {}
    tables = []
    for entry in entries:
        most = [limit for limit in (limits.max_images, entry.max_images) if limit is not None]
        admission = Admission(
            max_tokens=max_tokens,
            max_images=min(most) if most else None,
            max_turns=limits.max_turns if entry.max_turns is None else entry.max_turns,
            turn_orders=limits.turn_orders if entry.turn_orders is None else entry.turn_orders,
            exclude=tuple(sorted(limits.exclude)),
        )
        key = entry.source, admission
        if key not in opened:
            opened[key] = admitted_rows(sources[entry.source], lengths, admission)
        table = source_table(entry, sources[entry.source], opened[key], lengths.budgets.chances)
        table.turn_orders = admission.turn_orders
        table.budget_key = derive_key(BUDGET_KEY, seed, *entry.source.encode())
        tables.append(table)
    return tables


def source_table(
    entry: MixtureEntry,
    manifest: Manifest,
    admitted: AdmittedRows,
    chances: tuple[int, ...] = (1,),
) -> SourceTable:
    """The samples of one entry.

    Args:
        entry: A source, or some of its subsets.
        manifest: Of the source.
        admitted: Its rows under the recipe's and the entry's limits.
        chances: Of the budgets of tiles that the rows were measured with.

    Raises:
        ConfigError: The entry names a subset that the source does not have.
    """
    numbers = match_subsets(entry, manifest.subsets)
    excluded: Counter[str] = Counter()
    totals: Counter[str] = Counter()
    for number in numbers:
        facts = admitted.subsets[number]
        excluded.update(facts["excluded"])
        for name in ("samples", "tiles", "tokens", "supervised", "cut"):
            totals[name] += facts.get(name, 0)
        for name in ("max_tiles", "max_tokens"):
            totals[name] = max(totals[name], facts.get(name, 0))
    counts = np.array([admitted.subsets[number]["samples"] for number in numbers], dtype=np.int64)
    taken = entry.taken(int(counts.sum()))
    # Fixed for good: not by the run's seed, nor by how often the source was gone through.
    key = derive_key(TAKE_KEY, *entry.name.encode()) if taken.shuffled else None
    return SourceTable(
        name=entry.name,
        **admitted.columns,  # type: ignore[arg-type]
        excluded=dict(excluded),
        cut=totals.pop("cut", 0),
        content=manifest.hash,
        part=Part(
            starts=admitted.offsets[numbers],
            offsets=np.concatenate([[0], np.cumsum(counts)]),
            first=taken.first,
            count=taken.count,
            key=key,
        ),
        totals=dict(totals),
        records=admitted.records,
        digest=admitted.digest,
        chances=chances,
    )


def sample_shares(mixture: MixtureSettings, tables: list[SourceTable]) -> list[float]:
    """Shares of the samples, from weights that may be shares of something else.

    Args:
        mixture: Whose weights and unit count.
        tables: Of its entries.

    Returns:
        One share an entry, their sum is 1.

    Raises:
        ConfigError: A source of a mixture by tiles has none.
    """
    if mixture.unit == "samples":
        return mixture.shares
    shares = []
    for share, table in zip(mixture.shares, tables, strict=True):
        if mixture.unit == "visits":
            shares.append(share * max(len(table), 1))
            continue
        mean = table.mean(mixture.unit)
        if not mean and len(table):
            raise ConfigError(
                f"mixture: unit is {mixture.unit} but the samples of {table.name} have none; use "
                f"unit: tokens, or leave the source out"
            )
        shares.append(share / mean if mean else share)
    total = sum(shares)
    return [share / total for share in shares]


def unexpected_size(entry: MixtureEntry, table: SourceTable) -> str | None:
    """A warning where an entry has clearly other samples than its mixture says."""
    if entry.samples is None or abs(len(table) - entry.samples) <= TOLERANCE * entry.samples:
        return None
    return (
        f"{table.name} has {len(table):,} samples where the mixture expects {entry.samples:,}; "
        f"prepare may have left out more, or the published data changed"
    )
