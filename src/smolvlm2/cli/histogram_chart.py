"""A histogram as inline SVG; colours come from the page's style."""

import math

import numpy as np

from smolvlm2.cli.report_chart import (
    BOTTOM,
    HEIGHT,
    LEFT,
    RIGHT,
    TOP,
    WIDTH,
    round_ticks,
    short_number,
)

BINS = 24
"""At most so many bars."""
TAIL = 0.995
"""The last bar takes what lies above this share of the values: one giant must not spoil it."""


def histogram_chart(values: np.ndarray, *, name: str) -> str:
    """Draw how many samples have which value.

    Args:
        values: Integers, 0 or more, ``(n,)``.
        name: Of the horizontal axis.

    Returns:
        An ``<svg>`` element that scales with its container; a sentence where there is no value.
    """
    if not len(values):
        return "<p class=quiet>No samples.</p>"
    low, top = int(values.min()), int(np.quantile(values, TAIL, method="higher"))
    width = bin_width(low, top)
    first = low // width * width
    count = (top - first) // width + 1
    bins = np.minimum((values - first) // width, count - 1)
    heights = np.bincount(bins, minlength=count)
    highest, largest = int(heights.max()), int(values.max())
    step = (WIDTH - LEFT - RIGHT) / count
    middle = float(np.median(values))

    def y(samples: float) -> float:
        return HEIGHT - BOTTOM - samples / highest * (HEIGHT - TOP - BOTTOM)

    parts = []
    for tick in filter(float.is_integer, map(float, round_ticks(0, highest, 4))):
        parts.append(
            f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y(tick):.1f}" '
            f'y2="{y(tick):.1f}"/><text x="{LEFT - 8}" y="{y(tick) + 4:.1f}" '
            f'text-anchor="end">{short_number(tick)}</text>'
        )
    for place, samples in enumerate(heights.tolist()):
        start = first + place * width
        end = largest if place == count - 1 else start + width - 1
        span = f"{start:,}" if end <= start else f"{start:,} to {end:,}"
        parts.append(
            f'<rect class="bars" x="{LEFT + place * step + 0.5:.1f}" y="{y(samples):.1f}" '
            f'width="{max(step - 1, 1):.1f}" height="{HEIGHT - BOTTOM - y(samples):.1f}">'
            f"<title>{span} {name}: {samples:,} samples</title></rect>"
        )
    every = math.ceil(count / 6)
    for place in range(0, count, every):
        parts.append(
            f'<text x="{LEFT + (place + 0.5) * step:.1f}" y="{HEIGHT - BOTTOM + 18}" '
            f'text-anchor="middle">{short_number(first + place * width)}</text>'
        )
    at = LEFT + min((middle - first) / width + 0.5 * (width == 1), count) * step
    parts.append(
        f'<line class="middle" x1="{at:.1f}" x2="{at:.1f}" y1="{TOP}" y2="{HEIGHT - BOTTOM}"/>'
        f'<text x="0" y="12">samples</text>'
        f'<text x="{WIDTH - RIGHT}" y="{HEIGHT - 6}" text-anchor="end">{name}</text>'
    )
    label = f"{len(values)} samples, median {middle:g} {name}, largest {largest}"
    frame = f'viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{label}"'
    return f"<svg {frame}>{''.join(parts)}</svg>"


def bin_width(low: int, top: int) -> int:
    """The least of 1, 2, 5, 10, 20, 50 ... with which ``low`` to ``top`` needs at most ``BINS``.

    >>> bin_width(0, 20), bin_width(100, 1900)
    (1, 100)
    """
    power = 1
    while True:
        for factor in (1, 2, 5):
            width = factor * power
            if top // width - low // width + 1 <= BINS:
                return width
        power *= 10
