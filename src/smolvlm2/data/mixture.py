"""Which sources a run reads, and in which proportions. How that becomes an order is the plan's."""

import difflib
import fnmatch
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Literal

from smolvlm2.config import load_config
from smolvlm2.errors import ConfigError

TAKE = re.compile(r"all|first:(?P<first>\d+)|end:(?P<end>\d+)|random:(?P<random>\d+(\.\d+)?)%")
"""What ``take`` may be."""
MOST_TURN_ORDERS = 64
"""Orders of a sample's turns: each keeps a record a sample and budget of tiles."""


@dataclass(kw_only=True, frozen=True)
class Taken:
    """The part of an entry's rows that is used, the same in every epoch."""

    first: int
    """First row used, in the rows' own order or in shuffled order."""
    count: int
    """Rows used."""
    shuffled: bool
    """Whether rows are counted in a fixed shuffled order."""


@dataclass(kw_only=True)
class MixtureEntry:
    """One source, or some subsets of a source, and its weight."""

    source: str
    """Name of a prepared source, the folder's name below ``data/prepared``."""
    weight: float = 1.0
    """Share of the samples (see ``MixtureSettings.unit``), relative to the other entries; above
    0."""
    subset: str | list[str] | None = None
    """Configs or parts of the source, as in ``Manifest.subsets``: a name, a pattern with ``*`` and
    ``?``, or a list of them, each of which must match; None takes all."""
    take: str = "all"
    """Which of the rows that the recipe admits are used, the same in every epoch: ``all``,
    ``random:12.87%`` (rounded up), ``first:N``, ``end:N``."""
    max_images: int | None = None
    """Most images or clips of a sample, beside the recipe's limit; None: the recipe's alone."""
    max_turns: int | None = None
    """Most pairs of question and answer of a sample, in place of the recipe's; None: the
    recipe's."""
    turn_orders: int | None = None
    """Orders of a sample's questions, in place of the recipe's; 0 keeps dialogues whose questions
    build on each other as published; None: the recipe's."""
    samples: int | None = None
    """Rows that are expected after ``take``; the plan warns when there are others."""
    label: str | None = None
    """Name that a published mixture gives this entry; for people only."""

    def __post_init__(self) -> None:
        if not self.source or "/" in self.source or self.source.startswith("."):
            raise ConfigError(
                f"mixture: source {self.source!r} is no name; expected a folder's name below "
                "data/prepared, such as 'the_cauldron'"
            )
        if not math.isfinite(self.weight) or self.weight <= 0:
            raise ConfigError(
                f"mixture: weight of {self.name} is {self.weight}; expected a number above 0, "
                "remove the entry to leave the source out"
            )
        if self.patterns == []:
            raise ConfigError(
                f"mixture: subset of {self.source} is empty; name subsets, or leave it out"
            )
        found = TAKE.fullmatch(self.take)
        percent = Fraction(found["random"] or 1) if found else Fraction(0)
        if not found or not 0 < percent <= 100 or "0" in (found["first"], found["end"]):
            raise ConfigError(
                f"mixture: take of {self.name} is {self.take!r}; expected all, random:12.87%, "
                f"first:1000 or end:1000, with at most 100 % and at least one row"
            )
        for name in ("max_images", "max_turns", "samples"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"mixture: {name} of {self.name} is {value}, expected at least 1")
        if self.turn_orders is not None and not 0 <= self.turn_orders <= MOST_TURN_ORDERS:
            raise ConfigError(
                f"mixture: turn_orders of {self.name} is {self.turn_orders}, expected 0 (as "
                f"published) to {MOST_TURN_ORDERS}"
            )

    @property
    def name(self) -> str:
        """``source`` or ``source:subset``, for logs and errors."""
        return self.source if self.patterns is None else f"{self.source}:{'+'.join(self.patterns)}"

    @property
    def patterns(self) -> list[str] | None:
        """What ``subset`` asks for; None: everything."""
        return [self.subset] if isinstance(self.subset, str) else self.subset

    def taken(self, rows: int) -> Taken:
        """Resolve ``take`` for a number of rows.

        Source:
            The published loader keeps ``ceil(n * P / 100)`` rows, a fixed subset.
        """
        found = TAKE.fullmatch(self.take)
        assert found is not None
        if found["random"]:
            kept = math.ceil(rows * Fraction(found["random"]) / 100)
            return Taken(first=0, count=kept, shuffled=True)
        if found["first"]:
            return Taken(first=0, count=min(rows, int(found["first"])), shuffled=False)
        kept = min(rows, int(found["end"] or rows))
        return Taken(first=rows - kept, count=kept, shuffled=False)


@dataclass(kw_only=True)
class MixtureSettings:
    """All sources of a run."""

    entries: list[MixtureEntry] = field(default_factory=list)
    """At least one; a source is taken whole, or by subsets that are each named once."""
    unit: Literal["samples", "tokens", "tiles", "visits"] = "samples"
    """What the weights are shares of; ``visits``: of how often a sample comes, so that a source's
    share of the samples is its weight times its size."""
    epochs: float | None = None
    """After so many epochs every source ends, and with the last one the stage, if
    ``training.max_steps`` has not ended it before; None: sources repeat for ever."""
    group_by_media: int = 1
    """Most rows about the same images or clip that become turns of one sample, so that these are
    encoded once; 1 leaves rows as they are."""

    def __post_init__(self) -> None:
        if not self.entries:
            raise ConfigError("mixture.entries is empty; expected at least one source")
        if self.epochs is not None and not (math.isfinite(self.epochs) and self.epochs > 0):
            raise ConfigError(f"mixture.epochs is {self.epochs}, expected a number above 0 or null")
        if self.group_by_media < 1:
            raise ConfigError(
                f"mixture.group_by_media is {self.group_by_media}, expected at least 1"
            )
        seen: list[MixtureEntry] = []
        for entry in self.entries:
            asked = set(entry.patterns or ())
            for other in seen:
                if other.source == entry.source and (
                    not asked or not other.patterns or asked & set(other.patterns)
                ):
                    raise _overlap(entry, f"an earlier entry, {other.name}")
            seen.append(entry)

    @property
    def shares(self) -> list[float]:
        """Weights of the entries, scaled to a sum of 1."""
        total = sum(entry.weight for entry in self.entries)
        return [entry.weight / total for entry in self.entries]


def _overlap(entry: MixtureEntry, other: str) -> ConfigError:
    return ConfigError(
        f"mixture: {entry.name} overlaps {other}; expected each sample in one entry, so that it "
        "is seen once an epoch"
    )


def match_subsets(entry: MixtureEntry, subsets: Sequence[str]) -> list[int]:
    """Numbers of the subsets that an entry names, ascending.

    Args:
        entry: Of the mixture.
        subsets: Names that the source has.

    Raises:
        ConfigError: A name or pattern of the entry matches none; names the nearest.
    """
    if entry.patterns is None:
        return list(range(len(subsets)))
    found: set[int] = set()
    for pattern in entry.patterns:
        matches = {
            number
            for number, name in enumerate(subsets)
            if name == pattern or fnmatch.fnmatchcase(name, pattern)
        }
        if not matches:
            near = difflib.get_close_matches(pattern, subsets, n=3, cutoff=0.5)
            hint = f"did you mean {' or '.join(map(repr, near))}?" if near else _listed(subsets)
            raise ConfigError(f"mixture: source {entry.source!r} has no subset {pattern!r}; {hint}")
        found |= matches
    return sorted(found)


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - 12} more" if len(names) > 12 else ""
    return f"it has {', '.join(names[:12])}{more}"


def check_overlap(mixture: MixtureSettings, subsets: Mapping[str, Sequence[str]]) -> None:
    """Refuse a mixture in which a subset belongs to two entries, once its sources are known.

    Args:
        mixture: All entries.
        subsets: Names of the subsets of each source.

    Raises:
        ConfigError: Two entries share a subset, or one matches none.
    """
    owner: dict[tuple[str, int], MixtureEntry] = {}
    for entry in mixture.entries:
        for number in match_subsets(entry, subsets[entry.source]):
            key = entry.source, number
            if key in owner:
                name = subsets[entry.source][number]
                raise _overlap(entry, f"{owner[key].name} in subset {name!r}")
            owner[key] = entry


def load_mixture(path: str | Path, overrides: Sequence[str] = ()) -> MixtureSettings:
    """Read a mixture from YAML.

    Args:
        path: File with ``entries``, each with ``source``, ``weight`` and perhaps ``subset``.
        overrides: ``key=value`` from the command line.

    Raises:
        ConfigError: The file is missing or wrong; names file and key.
    """
    return load_config(MixtureSettings, path, overrides=overrides)
