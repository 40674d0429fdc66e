"""A loss curve as inline SVG; colours come from the page's style."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

WIDTH, HEIGHT = 480, 270
LEFT, RIGHT, TOP, BOTTOM = 46, 10, 26, 42
MOST_POINTS = 400
"""Above this the curves are thinned, so that the page stays small: the raw one to every n-th step,
which keeps its spread, the smooth one to means."""


def loss_chart(log: Sequence[Mapping[str, Any]], *, unfreeze_step: int | None = None) -> str:
    """Draw loss over steps.

    Args:
        log: Entries with ``step`` and ``loss``, at least one.
        unfreeze_step: Where the vision encoder began to train.

    Returns:
        An ``<svg>`` element that scales with its container.
    """
    points = [(float(e["step"]), float(e["loss"])) for e in log if math.isfinite(float(e["loss"]))]
    if not points:
        return "<p class=quiet>No finite loss was logged.</p>"
    raw = points[:: math.ceil(len(points) / MOST_POINTS)]
    smooth = _smooth(_thin(points))
    first, last = points[0][0], max(points[-1][0], points[0][0] + 1)
    # One early spike must not flatten the rest of the curve.
    losses = sorted(loss for _, loss in raw)
    top = max(losses[int(0.99 * (len(losses) - 1))], smooth[0][1]) * 1.05 or 1.0
    ticks = round_ticks(0, top, 5)

    def x(step: float) -> float:
        return LEFT + (step - first) / (last - first) * (WIDTH - LEFT - RIGHT)

    def y(loss: float) -> float:
        return HEIGHT - BOTTOM - min(max(loss / top, 0), 1) * (HEIGHT - TOP - BOTTOM)

    def line(name: str, values: Sequence[tuple[float, float]]) -> str:
        text = " ".join(f"{x(step):.1f},{y(loss):.1f}" for step, loss in values)
        return f'<polyline class="{name}" points="{text}"/>'

    parts = []
    for tick in ticks:
        parts.append(
            f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y(tick):.1f}" '
            f'y2="{y(tick):.1f}"/><text x="{LEFT - 8}" y="{y(tick) + 4:.1f}" '
            f'text-anchor="end">{tick:g}</text>'
        )
    for tick in round_ticks(first, last, 5):
        anchor = "end" if x(tick) > WIDTH - 30 else "middle"
        parts.append(
            f'<text x="{x(tick):.1f}" y="{HEIGHT - BOTTOM + 18}" '
            f'text-anchor="{anchor}">{short_number(tick)}</text>'
        )
    parts.append(f'<text x="{WIDTH - RIGHT}" y="{HEIGHT - 6}" text-anchor="end">step</text>')
    parts.append(f'<text x="{LEFT - 8}" y="12" text-anchor="end">loss</text>')
    parts += [line("raw", raw), line("smooth", smooth)]
    if unfreeze_step is not None and first <= unfreeze_step <= last:
        at = x(unfreeze_step)
        parts.append(
            f'<line class="mark" x1="{at:.1f}" x2="{at:.1f}" y1="{TOP}" y2="{HEIGHT - BOTTOM}"/>'
        )
    label = f"Loss from {points[0][1]:.3g} at step {first:g} to {points[-1][1]:.3g} at {last:g}"
    frame = f'viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{label}"'
    return f"<svg {frame}>{''.join(parts)}</svg>"


def _thin(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    size = math.ceil(len(points) / MOST_POINTS)
    groups = [points[i : i + size] for i in range(0, len(points), size)]
    return [
        (sum(step for step, _ in group) / len(group), sum(loss for _, loss in group) / len(group))
        for group in groups
    ]


def _smooth(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Mean over a window of a twentieth of the curve, centred, shorter at the ends."""
    reach = len(points) // 40
    smooth = []
    for i, (step, _) in enumerate(points):
        side = min(reach, i, len(points) - 1 - i)
        window = points[i - side : i + side + 1]
        smooth.append((step, sum(loss for _, loss in window) / len(window)))
    return smooth


def round_ticks(low: float, high: float, count: int) -> list[float]:
    """About ``count`` round numbers from ``low`` to ``high``."""
    rough = (high - low) / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= rough * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [round(i * step, 10) for i in range(first, math.floor(high / step + 1e-9) + 1)]


def short_number(value: float) -> str:
    """A label for an axis: thousands as ``k``."""
    return f"{value / 1000:g}k" if value >= 10_000 else f"{value:g}"
