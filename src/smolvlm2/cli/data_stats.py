"""``smolvlm2 data stats``: what a mixture gives, next to what its weights say."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from smolvlm2.cli.opened_mixture import OpenedEntry, OpenedMixture, open_mixture
from smolvlm2.data.geometry import ROW_MODALITIES

COLUMNS = ("tokens", "tiles", "supervised")


@dataclass(kw_only=True)
class MixtureShare:
    """One modality of one entry, under the recipe; shares are 0 to 1 over the whole mixture."""

    entry: str
    """``source`` or ``source:subset``."""
    modality: str
    """One of ``plan.samples.MODALITIES``."""
    rows: int
    """Prepared rows of the entry that have this modality, admitted or not."""
    admitted: int
    """Rows that the recipe admits."""
    weight: float
    """The entry's share by the mixture's weights; equal in all modalities of the entry."""
    samples: float
    """Share of the samples that training sees."""
    tokens: float
    """Share of the tokens, visual ones included."""
    tiles: float
    """Share of the tiles."""
    supervised: float
    """Share of the tokens with loss."""
    mean_tokens: float
    """A sample."""
    mean_tiles: float
    """A sample."""
    mean_supervised: float
    """A sample."""


@dataclass(kw_only=True)
class EntryFacts:
    """One entry of the mixture."""

    weight: float
    """Share by the mixture's weights."""
    rows: int
    """Prepared rows, admitted or not."""
    admitted: int
    """Rows that the recipe admits."""
    excluded: dict[str, int]
    """Rows that it leaves out, by reason."""
    cut: int
    """Admitted rows that lose turns at their end."""
    epochs: float | None
    """How often each row is seen in the recipe's steps; None where no row is admitted."""


@dataclass(kw_only=True)
class MixtureStats:
    """A mixture under a recipe."""

    mixture: str
    """As the user gave it."""
    recipe: list[str]
    """Files."""
    samples_seen: int
    """Samples of all steps of the recipe, as far as its sources do not end before."""
    entries: dict[str, EntryFacts]
    """By name."""
    shares: list[MixtureShare]
    """By entry and modality."""

    def to_json(self) -> dict[str, Any]:
        """All of it as JSON values."""
        return asdict(self)


def data_stats(
    subject: str,
    *,
    recipes: Sequence[str] = (),
    tokenizer: str | None = None,
    checkpoint: str | None = None,
    data: Path | None = None,
    as_json: bool = False,
) -> str:
    """Measure a mixture; arguments as ``open_mixture``.

    Returns:
        Tables, or JSON.

    Raises:
        ConfigError: No such source or recipe.
        DataNotFoundError: A source is not prepared.
    """
    opened = open_mixture(
        subject, recipes=recipes, tokenizer=tokenizer, checkpoint=checkpoint, data=data
    )
    stats = mixture_stats(opened)
    return json.dumps(stats.to_json(), indent=2) if as_json else stats_text(stats)


def mixture_stats(opened: OpenedMixture) -> MixtureStats:
    """Shares of samples, tokens, tiles and supervised tokens that a run would see.

    An entry that admits no row gives nothing; the others' weights are not scaled up, because a
    run would refuse that mixture.
    """
    training = opened.recipe.training
    mixture = opened.recipe.data.mixture
    ends = mixture.epochs if mixture is not None else None
    seen = training.samples_per_step * training.max_steps
    if ends is not None:
        seen = min(seen, round(ends * sum(map(len, opened.entries))))
    shares = [share for entry in opened.entries for share in _entry_shares(entry)]
    totals = {name: sum(getattr(share, name) for share in shares) or 1.0 for name in COLUMNS}
    for share in shares:
        for name, total in totals.items():
            setattr(share, name, getattr(share, name) / total)
    return MixtureStats(
        mixture=opened.name,
        recipe=opened.recipe_names,
        samples_seen=seen,
        entries={
            entry.name: EntryFacts(
                weight=entry.weight,
                rows=int(_prepared(entry).sum()),
                admitted=len(entry),
                excluded=dict(entry.excluded),
                cut=entry.cut,
                epochs=_epochs(entry, seen, ends),
            )
            for entry in opened.entries
        },
        shares=shares,
    )


def _epochs(entry: OpenedEntry, seen: int, ends: float | None) -> float | None:
    if not len(entry):
        return None
    epochs = entry.share * seen / len(entry)
    return epochs if ends is None else min(epochs, ends)


def _entry_shares(entry: OpenedEntry) -> list[MixtureShare]:
    """One a modality; lengths are sums a sample of the mixture, not yet shares of a total."""
    rows = _prepared(entry)
    shares = []
    for code, modality in enumerate(ROW_MODALITIES):
        if not rows[code]:
            continue
        here = np.flatnonzero(entry.modality == code)
        admitted = len(here)
        samples = entry.share * admitted / len(entry) if len(entry) else 0.0
        means = {
            name: float(getattr(entry, name)[here].mean()) if admitted else 0.0 for name in COLUMNS
        }
        shares.append(
            MixtureShare(
                entry=entry.name,
                modality=modality,
                rows=int(rows[code]),
                admitted=admitted,
                weight=entry.weight,
                samples=samples,
                **{name: samples * mean for name, mean in means.items()},
                **{f"mean_{name}": mean for name, mean in means.items()},
            )
        )
    return shares


def _prepared(entry: OpenedEntry) -> np.ndarray:
    """Prepared rows of the entry by modality, whether admitted or not."""
    geometry = entry.manifest.geometry
    chosen = np.isin(geometry.row_subset, entry.subsets)
    return np.bincount(geometry.row_modality[chosen], minlength=len(ROW_MODALITIES))


def stats_text(stats: MixtureStats) -> str:
    """Two tables: shares by entry and modality, then epochs and exclusions by entry."""
    width = max([len("entry"), *(len(name) for name in stats.entries)])
    lines = [
        f"{stats.mixture} under {' + '.join(stats.recipe)}: {stats.samples_seen:,} samples seen",
        "",
        f"{'entry':{width}}  {'modality':11} {'rows':>10} {'admitted':>10}  {'weight':>7} "
        f"{'samples':>7} {'tokens':>7} {'tiles':>7} {'superv.':>7}   {'mean tokens':>11} "
        f"{'tiles':>7} {'superv.':>8}",
    ]
    for share in stats.shares:
        lines.append(
            f"{share.entry:{width}}  {share.modality:11} {share.rows:10,} {share.admitted:10,}  "
            f"{share.weight:7.1%} {share.samples:7.1%} {share.tokens:7.1%} {share.tiles:7.1%} "
            f"{share.supervised:7.1%}   {share.mean_tokens:11,.1f} {share.mean_tiles:7.2f} "
            f"{share.mean_supervised:8.1f}"
        )
    modalities = _by_modality(stats)
    if len(modalities) > 1:
        lines.append("")
    for modality, sums in modalities.items() if len(modalities) > 1 else ():
        lines.append(
            f"{'all':{width}}  {modality:11} {sums['rows']:10,.0f} {sums['admitted']:10,.0f}  "
            f"{'':7} {sums['samples']:7.1%} {sums['tokens']:7.1%} {sums['tiles']:7.1%} "
            f"{sums['supervised']:7.1%}"
        )
    lines += ["", f"{'entry':{width}}  {'epochs':>10}  left out by the recipe"]
    for name, facts in stats.entries.items():
        reasons = [f"{count:,} {reason}" for reason, count in facts.excluded.items()]
        if facts.cut:
            reasons.append(f"{facts.cut:,} kept without their last turns")
        epochs = "none" if facts.epochs is None else f"{facts.epochs:,.2f}"
        lines.append(f"{name:{width}}  {epochs:>10}  {', '.join(reasons) or 'nothing'}")
    return "\n".join(lines)


def _by_modality(stats: MixtureStats) -> dict[str, dict[str, float]]:
    """Sums over the entries, for the modalities that there are."""
    sums: dict[str, dict[str, float]] = {}
    for modality in ROW_MODALITIES:
        here = [share for share in stats.shares if share.modality == modality]
        if here:
            sums[modality] = {
                name: sum(getattr(share, name) for share in here)
                for name in ("rows", "admitted", "samples", *COLUMNS)
            }
    return sums
