"""``smolvlm2 inspect``: what the model will see, as one HTML page or as text."""

import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from smolvlm2.cli.inspect_overview import histograms, index_table, ledger, subsets_table
from smolvlm2.cli.inspect_pictures import Pictures
from smolvlm2.cli.inspect_sample_page import sample_article
from smolvlm2.cli.inspect_samples import InspectedSample, draw_rows, find_rows, inspect_row
from smolvlm2.cli.inspect_style import INSPECT_STYLE
from smolvlm2.cli.inspect_text import inspection_text
from smolvlm2.cli.opened_mixture import OpenedMixture, open_mixture
from smolvlm2.cli.report_page import section, write_page
from smolvlm2.plan.samples import MODALITIES

MOST_CHIPS = 2000
"""Chips of a drawn sample; a sample asked for by id is shown whole."""


def inspect(
    subject: str,
    *,
    sample_ids: Sequence[str] = (),
    count: int = 12,
    seed: int = 0,
    recipes: Sequence[str] = (),
    tokenizer: str | None = None,
    checkpoint: str | None = None,
    data: Path | None = None,
    resample: Literal["exact", "fast"] = "exact",
    output: Path | None = None,
    text: bool = False,
) -> Path | None:
    """Show samples as training sees them.

    Args:
        subject: A prepared source, a mixture or a recipe; see ``open_mixture``.
        sample_ids: Samples by id; without any, ``count`` are drawn.
        count: Samples to draw.
        seed: Of the draw.
        recipes: As ``open_mixture``.
        tokenizer: As ``open_mixture``.
        checkpoint: As ``open_mixture``.
        data: As ``open_mixture``.
        resample: As ``open_mixture``.
        output: The page; default: ``runs/inspect/NAME.html``.
        text: Print instead of writing a page.

    Returns:
        The page, or None for text.

    Raises:
        ConfigError: No such source or recipe.
        DataError: No such sample.
    """
    opened = open_mixture(
        subject,
        recipes=recipes,
        tokenizer=tokenizer,
        checkpoint=checkpoint,
        data=data,
        resample=resample,
    )
    rows = find_rows(opened, sample_ids) if sample_ids else draw_rows(opened, count, seed)
    samples = [inspect_row(opened, entry, row) for entry, row in rows]
    if text:
        print(inspection_text(opened, samples, colour=sys.stdout.isatty()))
        return None
    if output is None:
        name = re.sub(r"[^\w.-]+", "-", opened.name).strip("-.")
        output = Path("runs") / "inspect" / f"{name}.html"
    page = write_inspection(opened, samples, output, whole=bool(sample_ids))
    print(f"{page}: samples of {subject}, {len(samples)} in all; open it in a browser")
    return page


def write_inspection(
    opened: OpenedMixture, samples: Sequence[InspectedSample], output: Path, *, whole: bool = False
) -> Path:
    """Write the page.

    Args:
        opened: What the samples are of.
        samples: To show.
        output: The HTML file.
        whole: Draw every token, and tiles in their full size.
    """
    pictures = Pictures(edge=None) if whole else Pictures()
    articles = [
        sample_article(
            shown,
            opened.processor,
            pictures,
            number=number,
            most_chips=None if whole else MOST_CHIPS,
        )
        for number, shown in enumerate(samples, start=1)
    ]
    missing = (
        f"<p class=error>{pictures.left_out} pictures are drawn as empty boxes: the page would "
        "grow too large. Show fewer samples with --count or --sample.</p>"
        if pictures.left_out
        else ""
    )
    shown = missing + _controls(samples) + "".join(articles)
    if not samples:
        shown = "<p class=quiet>Nothing to show: no row is admitted; see below why.</p>"
    sections = [
        section("Index", index_table(samples) if samples else ""),
        section("Samples", shown),
        section("Lengths of all admitted samples", histograms(opened)),
        section("Subsets", subsets_table(opened)),
        section("Left out and repaired", ledger(opened)),
    ]
    return write_page(output, f"Inspect {opened.name}", describe(opened), sections, INSPECT_STYLE)


def describe(opened: OpenedMixture) -> str:
    """Under which recipe the samples are shown, in one line."""
    processor, trained = opened.processor, opened.recipe.image.resample
    resample: str = processor.image.resample
    if trained != resample:
        resample += f" (training uses {trained}; --resample {trained} shows that)"
    admitted = sum(len(entry) for entry in opened.entries)
    return (
        f"{admitted:,} samples admitted by {' + '.join(opened.recipe_names)}; tiles of "
        f"{processor.tile_size} px and {processor.tokens_per_tile} tokens, longest edge "
        f"{processor.image.longest_edge} px, upscale {processor.image.upscale}, resize {resample}"
    )


def _controls(samples: Sequence[InspectedSample]) -> str:
    """Filters that need no script, and what the colours mean."""
    here = [name for name in MODALITIES if any(shown.modality == name for shown in samples)]
    radios = [
        f"<label><input type=radio name=f id=f-{name}{' checked' if name == 'all' else ''}>{name}"
        f"</label>"
        for name in ("all", *here)
    ]
    return (
        f"<form class=filters>{''.join(radios) if len(here) > 1 else ''}"
        "<label><input type=checkbox id=only>supervised tokens only</label></form>"
        "<p class=key><span class='t sup'>supervised</span><span class=t>no loss</span>"
        "<span class='t special'>special</span><span class='t visual'>visual</span>"
        "<span>hover or tap a token for its position, id, bytes and mask</span></p>"
    )
