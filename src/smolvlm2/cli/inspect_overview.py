"""What surrounds the samples on the inspect page: index, histograms, subsets, ledger."""

import json
from collections.abc import Sequence
from html import escape
from typing import Any

import numpy as np

from smolvlm2.cli.histogram_chart import histogram_chart
from smolvlm2.cli.inspect_samples import InspectedSample, ledger_lines
from smolvlm2.cli.opened_mixture import OpenedMixture
from smolvlm2.data.manifest import SOURCE_FILE, Manifest
from smolvlm2.plan.samples import MODALITIES

LINES_PER_REASON = 3
"""Ledger lines that are shown of each reason."""
LONGEST_DETAIL = 200
"""Characters of a ledger line's detail."""


def index_table(samples: Sequence[InspectedSample]) -> str:
    """Every sample of the page, with a link to it."""
    rows = []
    for number, shown in enumerate(samples, start=1):
        lengths = shown.lengths
        cells = (
            f"<td>{lengths.tokens:,}</td><td>{lengths.tiles:,}</td><td>{lengths.supervised:,}</td>"
            if lengths
            else "<td class=wrong colspan=3>cannot be read</td>"
        )
        rows.append(
            f"<tr><th scope=row><a href='#s{number}'>{escape(shown.sample_id)}</a>"
            f"<small>{escape(shown.modality)}</small></th>{cells}</tr>"
        )
    return (
        "<div class='card table index'><table><thead><tr><th>Sample</th>"
        "<th>Tokens</th><th>Tiles</th><th>Supervised</th></tr></thead>"
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )


def histograms(opened: OpenedMixture) -> str:
    """Tokens, tiles and supervised tokens of all samples that the recipe admits."""
    figures = []
    for column, name in (
        ("tokens", "tokens"),
        ("tiles", "tiles"),
        ("supervised", "supervised tokens"),
    ):
        values = _column(opened, column)
        facts = (
            f"mean {values.mean():,.1f} &middot; median {np.median(values):,.0f} &middot; "
            f"largest {values.max():,}"
            if len(values)
            else ""
        )
        figures.append(
            f"<figure class=card><figcaption><b>{name.capitalize()}</b>"
            f"<span class=quiet>{facts}</span></figcaption>"
            f"{histogram_chart(values, name=name)}</figure>"
        )
    return f"<div class=charts>{''.join(figures)}</div>"


def _column(opened: OpenedMixture, name: str) -> np.ndarray:
    empty = np.zeros(0, dtype=np.int64)
    return np.concatenate(
        [empty, *(getattr(entry, name) for entry in opened.entries)], dtype=np.int64
    )


def subsets_table(opened: OpenedMixture) -> str:
    """Samples, modalities and mean lengths of each subset that the recipe admits."""
    rows = []
    for entry in opened.entries:
        subset = np.asarray(entry.manifest.geometry.row_subset)[entry.rows]
        for number in np.unique(subset).tolist():
            here = subset == number
            name = entry.manifest.subsets[number]
            counts = np.bincount(entry.modality[here], minlength=len(MODALITIES))
            means = [getattr(entry, c)[here].mean() for c in ("tokens", "tiles", "supervised")]
            rows.append(
                f"<tr><th scope=row>{escape(name or entry.name)}<small>{escape(entry.name)}"
                f"</small></th><td>{int(here.sum()):,}</td><td>{_mix(counts)}</td>"
                + "".join(f"<td>{mean:,.1f}</td>" for mean in means)
                + "</tr>"
            )
    if not rows:
        return "<p class=quiet>The recipe admits no sample.</p>"
    key = "".join(f"<span><i class=m-{name}></i>{name}</span>" for name in MODALITIES)
    return (
        f"<p class=key>{key}</p><div class='card table subsets'><table><thead><tr><th>Subset</th>"
        "<th>Samples</th><th>Modalities</th><th>Mean tokens</th><th>Mean tiles</th>"
        f"<th>Mean supervised</th></tr></thead><tbody>{''.join(rows)}</tbody></table></div>"
    )


def _mix(counts: np.ndarray) -> str:
    total = int(counts.sum())
    parts = [
        f"<i class=m-{name} style='width:{100 * count / total:.2f}%' "
        f"title='{name}: {count:,} ({count / total:.1%})'></i>"
        for name, count in zip(MODALITIES, counts.tolist(), strict=True)
        if count
    ]
    return f"<span class=mix>{''.join(parts)}</span>"


def source_facts(manifest: Manifest) -> dict[str, Any]:
    """``source.json``: rows read, left out by reason, repairs."""
    facts: dict[str, Any] = json.loads((manifest.folder / SOURCE_FILE).read_text(encoding="utf-8"))
    return facts


def ledger_examples(manifest: Manifest) -> dict[str, list[dict[str, Any]]]:
    """The first few ledger lines of each reason; stops reading when it has them."""
    facts = source_facts(manifest)
    counts: dict[str, int] = dict(facts.get("rows_left_out", {}))
    for reason, count in facts.get("others_left_out", {}).items():
        counts[reason] = counts.get(reason, 0) + count
    missing = {reason: min(count, LINES_PER_REASON) for reason, count in counts.items()}
    found: dict[str, list[dict[str, Any]]] = {reason: [] for reason in counts}
    for line in ledger_lines(manifest):
        if not any(missing.values()):
            break
        lines = found.setdefault(line["reason"], [])
        if len(lines) < LINES_PER_REASON:
            lines.append(line)
            missing[line["reason"]] = missing.get(line["reason"], 1) - 1
    return found


def ledger(opened: OpenedMixture) -> str:
    """What prepare left out and repaired in each source, and what the recipe leaves out."""
    return "".join(_source_ledger(name, manifest) for name, manifest in opened.sources.items()) + (
        _excluded(opened)
    )


def _source_ledger(name: str, manifest: Manifest) -> str:
    facts = source_facts(manifest)
    left_out, others = facts.get("rows_left_out", {}), facts.get("others_left_out", {})
    rows = []
    for reason, lines in ledger_examples(manifest).items():
        shown = "".join(f"<div class=example>{escape(describe_line(line))}</div>" for line in lines)
        rows.append(
            f"<tr><th scope=row>{escape(reason)}</th><td>{left_out.get(reason, 0):,}</td>"
            f"<td>{others.get(reason, 0):,}</td></tr>"
            f"<tr class=examples-of><td class=left colspan=3>{shown}</td></tr>"
        )
    repairs = ", ".join(f"{count:,} {kind}" for kind, count in facts.get("repairs", {}).items())
    table = (
        "<div class='card table ledger'><table><thead><tr><th>Reason</th><th>Rows</th>"
        "<th>Other files</th></tr></thead>"
        f"<tbody>{''.join(rows)}</tbody></table></div>"
        if rows
        else ""
    )
    return (
        f"<p><b>{escape(name)}</b> {facts['rows_read']:,} rows read, {facts['rows_kept']:,} kept"
        f"<span class=quiet>{'; repaired: ' + escape(repairs) if repairs else ''}</span></p>{table}"
    )


def describe_line(line: dict[str, Any]) -> str:
    """A ledger line in words: where, which, why."""
    place = line["file"]
    if line.get("member"):
        place += f" : {line['member']}"
    elif line.get("row") is not None:
        place += f", row {line['row']}"
    detail = str(line["detail"])
    if len(detail) > LONGEST_DETAIL:
        detail = f"{detail[:LONGEST_DETAIL]}..."
    sample = f" ({line['sample_id']})" if line.get("sample_id") else ""
    return f"{place}{sample}: {detail}"


def _excluded(opened: OpenedMixture) -> str:
    rows = [
        f"<tr><th scope=row>{escape(entry.name)}</th><td class=left>{escape(reason)}</td>"
        f"<td>{count:,}</td></tr>"
        for entry in opened.entries
        for reason, count in {**entry.excluded, "turns cut": entry.cut}.items()
        if count
    ]
    if not rows:
        return "<p class=quiet>The recipe admits every prepared row.</p>"
    return (
        "<p><b>By the recipe</b></p><div class='card table ledger'><table><thead><tr><th>Entry</th>"
        "<th class=left>Reason</th><th>Rows</th></tr></thead>"
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )
