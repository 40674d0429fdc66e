"""Curves over steps as inline SVG; colours come from the page's style.

A long curve is drawn by the least and the largest value of each column of pixels, so that no spike
is lost and the page stays small, with its mean over it.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import numpy as np
from numpy.typing import NDArray

WIDTH, HEIGHT = 480, 270
LEFT, RIGHT, TOP, BOTTOM = 54, 10, 26, 42
COLUMNS = WIDTH - LEFT - RIGHT
"""Of pixels, at the size at which the chart is laid out."""
SPIKE = 0.99
"""The axis ends at this quantile of the values: one early spike must not flatten the rest."""

Floats = NDArray[np.float64]


@dataclass(kw_only=True, frozen=True)
class Series:
    """One curve."""

    steps: Floats
    """``(n,)`` ascending."""
    values: Floats
    """``(n,)``."""
    raw: str = "raw"
    """Class of the line through every value; empty: none."""
    smooth: str = "smooth"
    """Class of the line through the mean; empty: none."""

    def finite(self) -> "Series":
        """Without values that cannot be drawn."""
        kept = np.isfinite(self.values)
        return Series(
            steps=self.steps[kept], values=self.values[kept], raw=self.raw, smooth=self.smooth
        )


def loss_chart(log: Sequence[Mapping[str, Any]], *, unfreeze_step: int | None = None) -> str:
    """Draw loss over steps.

    Args:
        log: Entries with ``step`` and ``loss``, at least one.
        unfreeze_step: Where the vision encoder began to train.

    Returns:
        An ``<svg>`` element that scales with its container.
    """
    steps = np.array([float(entry["step"]) for entry in log])
    losses = np.array([float(entry["loss"]) for entry in log])
    if not np.isfinite(losses).any():
        return "<p class=quiet>No finite loss was logged.</p>"
    return line_chart([Series(steps=steps, values=losses)], name="loss", mark=unfreeze_step)


def line_chart(
    series: Sequence[Series], *, name: str, mark: int | None = None, low: float = 0.0
) -> str:
    """Draw curves over steps, from 0 upwards.

    Args:
        series: At least one, with a finite value among them.
        name: Of the vertical axis.
        mark: A step to mark with a vertical line.
        low: Where the vertical axis begins.

    Returns:
        An ``<svg>`` element that scales with its container.
    """
    drawn = [each for each in (one.finite() for one in series) if len(each.values)]
    first = min(float(each.steps[0]) for each in drawn)
    last = max(max(float(each.steps[-1]) for each in drawn), first + 1)
    means = [_smooth(*_means(each, first, last)) for each in drawn]
    top = max(
        max(float(np.quantile(each.values, SPIKE, method="lower")), float(mean[1][0]))
        for each, mean in zip(drawn, means, strict=True)
    )
    top = low + (top - low) * 1.05
    top = top if top > low else low + 1.0

    def x(steps: Floats) -> Floats:
        return LEFT + (steps - first) / (last - first) * COLUMNS

    def y(values: Floats) -> Floats:
        return (
            HEIGHT - BOTTOM - np.clip((values - low) / (top - low), 0, 1) * (HEIGHT - TOP - BOTTOM)
        )

    def line(kind: str, steps: Floats, values: Floats) -> str:
        points = zip(x(steps).tolist(), y(values).tolist(), strict=True)
        text = " ".join(f"{across:.1f},{down:.1f}" for across, down in points)
        return f'<polyline class="{kind}" points="{text}"/>'

    name = escape(name)
    parts = _axes(first, last, low, top, name)
    for each in drawn:
        if each.raw:
            parts.append(line(each.raw, *_extremes(each, first, last)))
    for each, mean in zip(drawn, means, strict=True):
        if each.smooth:
            parts.append(line(each.smooth, *mean))
    if mark is not None and first <= mark <= last:
        at = float(x(np.array([mark]))[0])
        parts.append(
            f'<line class="mark" x1="{at:.1f}" x2="{at:.1f}" y1="{TOP}" y2="{HEIGHT - BOTTOM}"/>'
        )
    begun, ended = drawn[0].values[0], drawn[0].values[-1]
    label = f"{name} from {begun:.3g} at step {first:g} to {ended:.3g} at {last:g}"
    frame = f'viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{label}"'
    return f"<svg {frame}>{''.join(parts)}</svg>"


def _axes(first: float, last: float, low: float, top: float, name: str) -> list[str]:
    parts = []
    for tick in round_ticks(low, top, 5):
        y = HEIGHT - BOTTOM - (tick - low) / (top - low) * (HEIGHT - TOP - BOTTOM)
        parts.append(
            f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
            f'<text x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{short_number(tick)}</text>'
        )
    for tick in round_ticks(first, last, 5):
        x = LEFT + (tick - first) / (last - first) * COLUMNS
        anchor = "end" if x > WIDTH - 30 else "middle"
        parts.append(
            f'<text x="{x:.1f}" y="{HEIGHT - BOTTOM + 18}" '
            f'text-anchor="{anchor}">{short_number(tick)}</text>'
        )
    parts.append(f'<text x="{WIDTH - RIGHT}" y="{HEIGHT - 6}" text-anchor="end">step</text>')
    parts.append(f'<text x="4" y="12">{name}</text>')
    return parts


def _columns(series: Series, first: float, last: float) -> NDArray[np.int64]:
    """Column of pixels of each value, ascending."""
    share = (series.steps - first) / (last - first)
    return np.minimum((share * COLUMNS).astype(np.int64), COLUMNS - 1)


def _extremes(series: Series, first: float, last: float) -> tuple[Floats, Floats]:
    """The least and the largest value of each column, in the order of their steps."""
    if len(series.values) <= COLUMNS:
        return series.steps, series.values
    columns = _columns(series, first, last)
    by_value = np.lexsort((series.values, columns))
    bounds = np.flatnonzero(np.diff(columns[by_value])) + 1
    least = by_value[np.concatenate([[0], bounds])]
    largest = by_value[np.concatenate([bounds, [len(by_value)]]) - 1]
    chosen = np.unique(np.concatenate([least, largest]))
    return series.steps[chosen], series.values[chosen]


def _means(series: Series, first: float, last: float) -> tuple[Floats, Floats]:
    """The mean step and value of each column."""
    if len(series.values) <= COLUMNS:
        return series.steps, series.values
    columns = _columns(series, first, last)
    counts = np.bincount(columns, minlength=COLUMNS)
    kept = counts > 0
    sums = (
        np.bincount(columns, weights=weights, minlength=COLUMNS)
        for weights in (series.steps, series.values)
    )
    steps, values = (each[kept] / counts[kept] for each in sums)
    return steps, values


def _smooth(steps: Floats, values: Floats) -> tuple[Floats, Floats]:
    """Mean over a window of a twentieth of the curve, centred, shorter at the ends."""
    places = np.arange(len(values))
    side = np.minimum(np.minimum(places, places[::-1]), len(values) // 40)
    sums = np.concatenate([[0.0], np.cumsum(values)])
    return steps, (sums[places + side + 1] - sums[places - side]) / (2 * side + 1)


def round_ticks(low: float, high: float, count: int) -> list[float]:
    """About ``count`` round numbers from ``low`` to ``high``."""
    rough = (high - low) / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= rough * 0.999)
    first = math.ceil(low / step - 1e-9)
    ticks = [i * step for i in range(first, math.floor(high / step + 1e-9) + 1)]
    return [float(f"{tick:.10g}") for tick in ticks]


def short_number(value: float) -> str:
    """A label for an axis: thousands as ``k``, small ones with an exponent."""
    if abs(value) >= 10_000:
        return f"{value / 1000:g}k" if abs(value) < 1e7 else f"{value / 1e6:g}M"
    if 0 < abs(value) < 1e-3:
        return f"{value:.1e}".replace(".0e", "e").replace("e-0", "e-")
    return f"{value:g}"
