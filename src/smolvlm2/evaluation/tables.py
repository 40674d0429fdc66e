"""Results as Markdown: scores beside chance, a constant letter, other rules, published figures."""

from collections.abc import Mapping, Sequence
from typing import Any

from smolvlm2.errors import ConfigError
from smolvlm2.evaluation.benchmark import Benchmark, load_benchmark
from smolvlm2.evaluation.published import SIZES, published_score
from smolvlm2.evaluation.result import BenchmarkResult


def score_table(
    results: Sequence[BenchmarkResult],
    controls: Mapping[str, BenchmarkResult] | None = None,
    benchmarks: Mapping[str, Benchmark] | None = None,
) -> str:
    """One row a benchmark, in percent, with notes below.

    Args:
        results: In the order of the rows.
        controls: Results on blank pictures, by benchmark.
        benchmarks: Definitions by name; those that are not shipped must be here.
    """
    controls, benchmarks = controls or {}, benchmarks or {}
    head = ["Benchmark", "Score", "95 %", "n", "Chance", "Best letter", "Blank"]
    rows = [[*head, *(f"Published {size}" for size in SIZES)]]
    notes: list[str] = []
    for result in results:
        names = _published_names(result.benchmark, benchmarks)
        found = [published_score(names, size) for size in SIZES]
        best = max(result.constant.items(), key=lambda entry: entry[1], default=None)
        control = controls.get(result.benchmark)
        low, high = result.interval
        rows.append(
            [
                result.title,
                f"**{_percent(result.accuracy)}**",
                f"{_percent(low)} to {_percent(high)}",
                str(result.n),
                _percent(result.chance),
                f"{best[0]} {_percent(best[1])}" if best else "-",
                _percent(control.accuracy if control else None),
                *(str(score) if score else "-" for score in found),
            ]
        )
        notes += _notes(result)
    table = [_line(rows[0]), _line(["---"] * len(rows[0])), *map(_line, rows[1:])]
    notes.append(
        "Published figures are copies of what was reported for the released checkpoints, by other "
        "prompts and rules; `?` marks those not confirmed. Sources: `published_scores.csv`."
    )
    return "\n".join([*table, "", *(f"- {note}" for note in notes)]) + "\n"


def group_table(result: BenchmarkResult, group: str) -> str:
    """Scores of one group's values."""
    rows = [
        [name, _percent(score.score), " to ".join(map(_percent, score.interval)), str(score.n)]
        for name, score in result.groups[group].items()
    ]
    lines = [_line([group, "Score", "95 %", "n"]), _line(["---"] * 4), *map(_line, rows)]
    return "\n".join(lines) + "\n"


def report(
    results: Sequence[BenchmarkResult],
    controls: Mapping[str, BenchmarkResult] | None = None,
    benchmarks: Mapping[str, Benchmark] | None = None,
) -> str:
    """The score table, then every group of every benchmark."""
    parts = ["# Scores\n", score_table(results, controls, benchmarks)]
    for result in results:
        for group, values in result.groups.items():
            if len(values) > 1:
                parts += [f"## {result.title} by {group}\n", group_table(result, group)]
    return "\n".join(parts)


def _notes(result: BenchmarkResult) -> list[str]:
    title = result.title
    style = f"prompts `{result.prompt_style}`, {result.aggregation}"
    notes = [f"{title}: rule `{result.rule}`, {style}"]
    other = {
        name: value
        for name, value in result.beside.items()
        if _percent(value) != _percent(result.accuracy)
    }
    if other:
        values = ", ".join(f"{_percent(value)} by `{name}`" for name, value in other.items())
        notes.append(f"{title}, same answers by other rules: {values}")
    if result.unanswered or result.empty:
        first = f", first {result.unanswered[0]['problem']}" if result.unanswered else ""
        notes.append(
            f"{title}: {len(result.unanswered)} without an answer and {result.empty} empty, all "
            f"counted as wrong{first}"
        )
    return notes + [f"{title}, unverified: {entry}" for entry in result.unverified]


def _published_names(name: str, benchmarks: Mapping[str, Benchmark]) -> list[str]:
    if name in benchmarks:
        return benchmarks[name].published
    try:
        return load_benchmark(name).published
    except ConfigError:
        return []  # somebody's own: nothing is published


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f}"


def _line(cells: Sequence[Any]) -> str:
    return f"| {' | '.join(str(cell).replace('|', chr(92) + '|') for cell in cells)} |"
