"""The curves of a run's report."""

from collections.abc import Sequence
from dataclasses import replace
from html import escape

from smolvlm2.cli.report_chart import Series, line_chart
from smolvlm2.cli.run_history import History

PARTS = ("load", "vision", "text", "optimizer", "wait")
RATES = ("learning_rate", "connector_learning_rate", "vision_learning_rate")
COLOURS = 6
"""Of curves that share a chart; more go around."""
STYLE = (
    "".join(
        f"svg .thin.s{i}, .legend .s{i} {{ --c: var(--s{i}); }}\n"
        f"svg .s{i} {{ --c: var(--s{i}); }}\n"
        for i in range(COLOURS)
    )
    + """
:root { --s0: #2f5fd0; --s1: #c2571a; --s2: #1d7f4e; --s3: #8a3fb5; --s4: #b3203f; --s5: #5b6472; }
@media (prefers-color-scheme: dark) {
  :root { --s0: #86a8ff; --s1: #f0a064; --s2: #5fcf8b; --s3: #cf9bf0; --s4: #ff8f9f;
    --s5: #9aa4b2; } }
svg polyline[class*="s"] { fill: none; stroke-linejoin: round; }
svg .thin { stroke: var(--c); stroke-width: 1; opacity: .3; }
svg .bold { stroke: var(--c); stroke-width: 2; }
.legend i[class^="s"]:not(.smooth) { border-top: 3px solid var(--c); }
.wide td { overflow-wrap: break-word; } .wide td, .wide th { text-align: left; }
details pre { max-height: 60vh; overflow: auto; } summary { cursor: pointer; }
details { margin-top: 12px; }
"""
)


def charts(history: History, *, mark: int | None) -> str:
    """All curves that the log has numbers for.

    Args:
        history: Of the run.
        mark: Step at which the vision encoder begins to train; None: none.
    """
    by_modality = history.names(lambda name: name.startswith("loss_by_modality/"))
    held_out = history.names(lambda name: name.startswith("validation/loss"))
    scores = history.names(lambda name: name.startswith("eval/") and name.count("/") == 1)
    figures = [
        _figure(history, "Loss", ("loss",), unit="nats a token", mark=mark),
        _figure(history, "Loss by modality", by_modality, unit="nats a token", mark=mark),
        _figure(history, "Held-out loss", held_out, unit="nats a token", mark=mark),
        _figure(history, "Evaluation", scores, unit="share right"),
        _figure(history, "Learning rates", RATES, unit=""),
        _figure(history, "Gradient norm", ("gradient_norm",), unit="before clipping", mark=mark),
        _figure(history, "Time of a step", [f"{part}_seconds" for part in PARTS], unit="s"),
        _figure(history, "Tokens a second", ("tokens_per_second",), unit="", mark=mark),
        _figure(history, "Tiles a second", ("tiles_per_second",), unit="", mark=mark),
        _figure(history, "MFU", ("mfu",), unit="of the paper peak", mark=mark),
        _figure(history, "Fill of packs", ("fill_tokens", "fill_tiles"), unit="share"),
        _figure(history, "Imbalance of ranks", ("imbalance",), unit="largest / mean cost", low=1.0),
        _figure(history, "Peak memory", ("memory_gib",), unit="GiB", mark=mark),
    ]
    found = "".join(figures)
    return f"<div class=charts>{found}</div>" if found else ""


def _figure(
    history: History,
    title: str,
    names: Sequence[str],
    *,
    unit: str,
    mark: int | None = None,
    low: float = 0.0,
) -> str:
    """A chart with its title, last values and legend; nothing where no curve has values."""
    found = {name: series for name in names if (series := history.series(name)) is not None}
    if not found:
        return ""
    alone = len(found) == 1
    curves: list[Series] = []
    legend = []
    for number, (name, series) in enumerate(found.items()):
        colour = f"s{number % COLOURS}"
        curves.append(
            series if alone else replace(series, raw=f"thin {colour}", smooth=f"bold {colour}")
        )
        if not alone:
            legend.append(f"<span><i class={colour}></i>{escape(_short(name))}</span>")
    if alone:
        legend = [
            "<span><i class=raw></i>every step</span><span><i class=smooth></i>smoothed</span>"
        ]
    if mark is not None and curves[0].steps[0] <= mark <= curves[0].steps[-1]:
        legend.append("<span><i class=dash></i>vision encoder unfrozen</span>")
    first, last = curves[0].values[0], curves[0].values[-1]
    change = f"{_figures(first)} &rarr; {_figures(last)}" if alone else ""
    return (
        f"<figure class=card><figcaption><b>{escape(title)}</b><span class=quiet>{change}</span>"
        f"</figcaption>\n{line_chart(curves, name=unit, mark=mark, low=low)}"
        f"<p class=legend>{''.join(legend)}</p></figure>"
    )


def _figures(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def _short(name: str) -> str:
    name = name.removeprefix("loss_by_modality/").removeprefix("validation/")
    name = name.removeprefix("loss_by_modality/").removeprefix("eval/")
    return name.removesuffix("_seconds").replace("_", " ")
