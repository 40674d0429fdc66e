"""Which sources a run reads, and in which proportions. How that becomes an order is the plan's."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from smolvlm2.config import load_config
from smolvlm2.errors import ConfigError


@dataclass(kw_only=True)
class MixtureEntry:
    """One source, or one subset of a source, and its weight."""

    source: str
    """Name of a prepared source, the folder's name below ``data/prepared``."""
    weight: float = 1.0
    """Share of the samples, relative to the other entries; above 0."""
    subset: str | None = None
    """Config or part of the source, as in ``Manifest.subsets``; None takes all of them."""

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

    @property
    def name(self) -> str:
        """``source`` or ``source:subset``, for logs and errors."""
        return self.source if self.subset is None else f"{self.source}:{self.subset}"


@dataclass(kw_only=True)
class MixtureSettings:
    """All sources of a run."""

    entries: list[MixtureEntry] = field(default_factory=list)
    """At least one; a source is taken whole, or by subsets that are each named once."""

    def __post_init__(self) -> None:
        if not self.entries:
            raise ConfigError("mixture.entries is empty; expected at least one source")
        seen: set[tuple[str, str | None]] = set()
        for entry in self.entries:
            whole = (entry.source, None)
            others = any(source == entry.source for source, _ in seen)
            if (entry.source, entry.subset) in seen or (
                others and (entry.subset is None or whole in seen)
            ):
                raise ConfigError(
                    f"mixture: {entry.name} overlaps an earlier entry of {entry.source}; expected "
                    "each sample in one entry, so that it is seen once an epoch"
                )
            seen.add((entry.source, entry.subset))

    @property
    def shares(self) -> list[float]:
        """Weights of the entries, scaled to a sum of 1."""
        total = sum(entry.weight for entry in self.entries)
        return [entry.weight / total for entry in self.entries]


def load_mixture(path: str | Path, overrides: Sequence[str] = ()) -> MixtureSettings:
    """Read a mixture from YAML.

    Args:
        path: File with ``entries``, each with ``source``, ``weight`` and perhaps ``subset``.
        overrides: ``key=value`` from the command line.

    Raises:
        ConfigError: The file is missing or wrong; names file and key.
    """
    return load_config(MixtureSettings, path, overrides=overrides)
