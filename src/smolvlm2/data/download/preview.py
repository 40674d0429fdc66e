"""What a download will be: a table from the catalogue alone, or from what the hub lists."""

from collections.abc import Sequence
from pathlib import Path

from smolvlm2.data.download.disk import PREPARE_NOTE, free_bytes
from smolvlm2.data.download.selection import Selection
from smolvlm2.data.download.text import show_bytes, show_count, show_table
from smolvlm2.data.sources.catalogue import Source

_MARK = {"measured": "", "derived": "", "estimate": "~", "unknown": "?"}


def preview(selections: Sequence[Selection], data: Path) -> str:
    """The table of a selection: sizes, rows, gates, licences, free disk. Asks no hub.

    Sizes are the catalogue's: ``~`` an estimate, ``>`` part of the set has no known size.
    """
    rows = [
        (
            selection.source.name,
            " + ".join(selection.source.stages) or "on request",
            show_size(selection),
            show_count(_rows(selection)),
            ", ".join(_conditions(selection.source)),
            selection.source.licence,
        )
        for selection in selections
    ]
    header = ("source", "stage", "size", "rows", "terms", "licence")
    lines = [show_table(header, rows, right={2, 3}), ""]
    for stage in ("vision", "video"):
        chosen = [s for s in selections if stage in s.source.stages]
        if chosen:
            lines.append(f"{stage} stage: {_total(chosen)}")
    if len(selections) > 1:
        lines.append(f"together: {_total(selections)}")
    lines.append(f"free on the disk of {data}: {show_bytes(free_bytes(data / 'raw'))}")
    lines += [f"note: {PREPARE_NOTE}", *notes(selections)]
    if len(selections) == 1:
        lines += _details(selections[0].source)
    return "\n".join(lines)


def notes(selections: Sequence[Selection]) -> list[str]:
    """What somebody has to do or know: gates, research-only terms, media to bring."""
    lines: list[str] = []
    for selection in selections:
        source = selection.source
        if source.gated:
            lines.append(f"{source.name}: gated; {gate_advice(source)}")
        lines += [f"{source.name}: {text}" for text in source.bring]
    research = [s.source.name for s in selections if s.source.research_only]
    if research:
        lines.append(f"research or non-commercial use only: {', '.join(research)}")
    return lines


def gate_advice(source: Source) -> str:
    """What to do about a gate, in one sentence."""
    return (
        f"accept the terms on {source.terms_url}, then run `hf auth login`, set HF_TOKEN, or give "
        "--token"
    )


def show_size(selection: Selection) -> str:
    """Size of a selection as far as the catalogue knows it."""
    size, mark = _size(selection)
    return mark if size is None else f"{mark}{show_bytes(size)}"


def _size(selection: Selection) -> tuple[float | None, str]:
    """Bytes, and what stands before them; None where only the mark says anything."""
    source = selection.source
    mark = ">" if source.size_at_least else _MARK[source.size_is]
    whole = None if source.size_gb is None else source.size_gb * 1e9
    if selection.is_whole:
        return whole, mark
    chosen = [s.size_gb for s in source.subsets if s.name in selection.known_subsets]
    sizes = [size for size in chosen if size is not None]
    if sizes and len(sizes) == len(chosen):
        return sum(sizes) * 1e9, ""
    return None, "part of " + ("?" if whole is None else f"{mark}{show_bytes(whole)}")


def _details(source: Source) -> list[str]:
    places = [f"{repo.hub_id} at {repo.revision}" for repo in source.repos]
    return [
        f"{source.title}; from {', '.join(places)} to raw/{source.raw_folder}",
        *(f"trap: {text}" for text in source.traps),
        *(f"unverified: {text}" for text in source.unverified),
    ]


def _rows(selection: Selection) -> int | None:
    if selection.is_whole:
        return selection.source.rows
    chosen = [s.rows for s in selection.source.subsets if s.name in selection.known_subsets]
    rows = [count for count in chosen if count is not None]
    return sum(rows) if rows and len(rows) == len(chosen) else None


def _conditions(source: Source) -> list[str]:
    marks = {"gated": source.gated, "research only": source.research_only}
    return [name for name, holds in marks.items() if holds]


def _total(selections: Sequence[Selection]) -> str:
    """Sum of the sizes that are known, and what it leaves out."""
    sizes = [(s, *_size(s)) for s in selections]
    estimate = "~" if any("~" in mark for _, _, mark in sizes) else ""
    known = [size for _, size, _ in sizes if size is not None]
    parts = [s.source.size_gb or 0.0 for s, size, _ in sizes if size is None and not s.is_whole]
    sums = [show_bytes(sum(known))] if known else []
    sums += [f"part of {show_bytes(sum(parts) * 1e9)}"] if sum(parts) else []
    text = estimate + (" and ".join(sums) or "?")
    text += f" in {len(selections)} source" + "s" * (len(selections) > 1)
    unsure = [s.source for s, size, mark in sizes if mark.endswith("?") or ">" in mark]
    if unsure:
        text += f", without what nobody knows of {', '.join(source.name for source in unsure)}"
    return text
