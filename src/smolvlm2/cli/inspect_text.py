"""The inspect page for a terminal."""

from collections.abc import Sequence

from smolvlm2.cli.inspect_overview import describe_line, ledger_examples, source_facts
from smolvlm2.cli.inspect_samples import InspectedSample, Medium
from smolvlm2.cli.inspect_tokens import Chip, Tile, chips, defects, tiles_of_media
from smolvlm2.cli.opened_mixture import OpenedMixture
from smolvlm2.processing.processor import Processor
from smolvlm2.processing.prompt_strings import clock

OPEN, CLOSE = "[[", "]]"
"""Around supervised tokens where there are no colours."""
GREEN, RESET = "\x1b[1;32m", "\x1b[0m"


def inspection_text(
    opened: OpenedMixture, samples: Sequence[InspectedSample], *, colour: bool
) -> str:
    """Samples, then the ledger of each source.

    Args:
        opened: What the samples are of.
        samples: To show.
        colour: Mark supervised tokens by colour, else by ``[[`` and ``]]``.
    """
    blocks = [_sample(shown, opened.processor, colour) for shown in samples]
    blocks += [_ledger(opened, name) for name in opened.sources]
    return "\n\n".join(blocks)


def _sample(shown: InspectedSample, processor: Processor, colour: bool) -> str:
    notes = [shown.entry, shown.subset, shown.modality, *shown.flags]
    if shown.planned is None:
        notes.append("left out by this recipe")
    if shown.cut:
        notes.append(f"{shown.cut} messages cut")
    lines = [f"=== {shown.sample_id}", "    " + ", ".join(dict.fromkeys(filter(None, notes)))]
    if shown.sample is None:
        lines.append(f"    cannot be read: {shown.error}")
        lines += [f"    {message['role']}: {_plain(message)}" for message in shown.messages]
        return "\n".join(lines)
    real = shown.lengths
    assert real is not None
    lines.append(f"    {real.tokens} tokens, {real.tiles} tiles, {real.supervised} supervised")
    found = chips(shown.sample, processor.tokenizer)
    wrong = defects(shown.sample, found, processor.tokens_per_tile)
    if shown.planned not in (None, real):
        wrong.append(f"planned as {shown.planned}: the geometry is stale, prepare again")
    lines += [f"    ! {text}" for text in wrong]
    media = tiles_of_media(shown.sample, found)
    for place, (medium, tiles) in enumerate(zip(shown.media, media, strict=True), start=1):
        lines += _medium(medium, place, tiles)
    specials = [token.decode() for token in {chip.data for chip in found if chip.kind != "text"}]
    return "\n".join([*lines, "", tokens_text(found, colour=colour, specials=specials)])


def _plain(message: dict) -> str:
    return " ".join(
        part["text"] if part["type"] == "text" else f"[{part['type']}]"
        for part in message["content"]
    )


def _medium(medium: Medium, place: int, tiles: Sequence[Tile]) -> list[str]:
    head = f"    {place}. {medium.kind} {medium.width} x {medium.height} px"
    if medium.kind == "video":
        head += f", {medium.duration:.2f} s, {medium.frames} frames at {medium.fps:.3g}/s"
    lines = [f"{head}  {medium.where}"]
    for tile in tiles:
        name = tile.name if tile.time is None else f"{clock(tile.time)} ({tile.time:.2f} s)"
        where = (
            f"{tile.chip.count} x <image> at {tile.chip.positions}" if tile.chip else "no tokens"
        )
        lines.append(f"       tile {tile.number:3}  {name:16} {where}")
    return lines


def tokens_text(found: Sequence[Chip], *, colour: bool, specials: Sequence[str]) -> str:
    """The ids as text, supervised ones marked, runs of visual tokens as ``<image> x n``.

    Args:
        found: Chips of a sample.
        colour: Mark by colour, else by brackets.
        specials: Names of special tokens; where text spells one, a backslash stands before it.
    """
    start, end = (GREEN, RESET) if colour else (OPEN, CLOSE)
    parts, marked = [], False
    for run in _joined(found):
        first = run[0]
        if first.supervised != marked:
            parts.append(end if marked else start)
            marked = first.supervised
        if first.kind == "visual":
            parts.append(f"{first.text} x {first.count}")
            continue
        text = b"".join(chip.data for chip in run).decode("utf-8", "backslashreplace")
        if first.kind == "text":
            for name in specials:
                text = text.replace(name, f"\\{name}")
        parts.append(text)
    return "".join(parts) + (end if marked else "")


def _joined(found: Sequence[Chip]) -> list[list[Chip]]:
    """Text tokens of equal mask together: a character may be spread over several."""
    runs: list[list[Chip]] = []
    for chip in found:
        last = runs[-1][-1] if runs else None
        if last and last.kind == chip.kind == "text" and last.supervised == chip.supervised:
            runs[-1].append(chip)
        else:
            runs.append([chip])
    return runs


def _ledger(opened: OpenedMixture, name: str) -> str:
    manifest = opened.sources[name]
    facts = source_facts(manifest)
    lines = [f"=== {name}: {facts['rows_read']:,} rows read, {facts['rows_kept']:,} kept"]
    for reason, examples in ledger_examples(manifest).items():
        count = facts["rows_left_out"].get(reason, 0) + facts["others_left_out"].get(reason, 0)
        lines.append(f"    {count:7,} {reason}")
        lines += [f"            {describe_line(line)}" for line in examples]
    lines += [f"    {count:7,} repaired: {kind}" for kind, count in facts["repairs"].items()]
    for entry in opened.entries:
        if entry.manifest.source == name:
            lines += [
                f"    {count:7,} left out of {entry.name} by the recipe: {reason}"
                for reason, count in entry.excluded.items()
            ]
    return "\n".join(lines)
