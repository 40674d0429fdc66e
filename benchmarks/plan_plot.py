"""Useful share and waiting against ranks, as an SVG without a plotting library."""

from pathlib import Path
from typing import Any

WIDTH, HEIGHT = 640, 300
LEFT, TOP, BOTTOM, PANEL = 52, 34, 46, 268
COLOURS = {
    "ours": "#0b6",
    "first fit": "#c60",
    "nanoVLM": "#906",
    "grouped": "#36c",
    "padded": "#888",
}


def write_plot(path: Path, result: dict[str, Any]) -> None:
    """Draw one mixture: on the left the useful share, on the right slowest over mean rank.

    Args:
        path: SVG file.
        result: An entry of ``mixtures`` in ``results/plan.json``.
    """
    rows = result["ranks"]
    useful = {
        name: [row["others"][name]["trains"] for row in rows] for name in rows[0]["others"]
    } | {"ours": [row["useful_with_blanks_trains"] for row in rows]}
    waiting = {"ours": [row["imbalance_p95_trains"] for row in rows]}
    ranks = [str(row["ranks"]) for row in rows]
    left = panel(0, "useful share of rank-time, encoder trains", useful, ranks, (0.0, 1.0))
    right = panel(WIDTH // 2, "slowest / mean rank (95 %)", waiting, ranks, (1.0, 1.05))
    label = f"Plan figures of the mixture: {result['mixture']}"
    path.write_text(
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        f'aria-label="{label}" font-family="sans-serif" font-size="11">'
        f'<rect width="100%" height="100%" fill="#fff"/>{left}{right}</svg>\n',
        encoding="utf-8",
    )


def panel(
    x0: int,
    title: str,
    lines: dict[str, list[float]],
    ticks: list[str],
    limits: tuple[float, float],
) -> str:
    """One diagram, its lines named at their ends."""
    low, high = limits

    def x(place: int) -> float:
        return x0 + LEFT + place * (PANEL - LEFT - 60) / max(len(ticks) - 1, 1)

    def y(value: float) -> float:
        return HEIGHT - BOTTOM - (value - low) / (high - low) * (HEIGHT - TOP - BOTTOM)

    parts = [f'<text x="{x0 + LEFT}" y="18">{title}</text>']
    for step in range(6):
        value = low + (high - low) * step / 5
        parts.append(
            f'<line x1="{x0 + LEFT}" x2="{x0 + PANEL - 60}" y1="{y(value):.1f}" '
            f'y2="{y(value):.1f}" stroke="#ddd"/><text x="{x0 + LEFT - 6}" '
            f'y="{y(value) + 4:.1f}" text-anchor="end">{value:.2f}</text>'
        )
    for place, tick in enumerate(ticks):
        parts.append(
            f'<text x="{x(place):.1f}" y="{HEIGHT - BOTTOM + 16}" '
            f'text-anchor="middle">{tick}</text>'
        )
    parts.append(f'<text x="{x0 + LEFT}" y="{HEIGHT - 10}">ranks, one pack each</text>')
    taken: list[float] = []
    for name, values in sorted(lines.items(), key=lambda item: -item[1][-1]):
        points = " ".join(f"{x(place):.1f},{y(value):.1f}" for place, value in enumerate(values))
        end = y(values[-1]) + 4
        while any(abs(end - other) < 12 for other in taken):
            end += 1
        taken.append(end)
        parts.append(
            f'<polyline points="{points}" fill="none" stroke="{COLOURS[name]}" stroke-width="2"/>'
            f'<text x="{x(len(ticks) - 1) + 6:.1f}" y="{end:.1f}" '
            f'fill="{COLOURS[name]}">{name}</text>'
        )
    return "".join(parts)
