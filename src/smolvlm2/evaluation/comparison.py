"""Whether one evaluation is better than another, question by question."""

from collections.abc import Mapping
from dataclasses import dataclass

from smolvlm2.errors import DataError
from smolvlm2.evaluation.result import BenchmarkResult
from smolvlm2.evaluation.statistics import macro_weights, paired_test

_OF_THE_MODEL = ("model", "weights", "folder", "step", "address")
"""What says whose answers they are; two models are meant to differ in it."""


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Two results of one benchmark, compared on the same questions."""

    benchmark: str
    """Its name."""
    title: str
    """Its name for people."""
    a: float
    """Headline of the first, 0 to 1."""
    b: float
    """Headline of the second."""
    difference: float
    """``b - a``."""
    interval: tuple[float, float]
    """95 % interval of the difference, clustered."""
    p_value: float
    """Chance of a difference as large where neither is better."""
    wins: int
    """Questions on which the second scores higher."""
    losses: int
    """Questions on which the first does."""
    warnings: tuple[str, ...]
    """What else differs between the two: prompts, pictures, frames, number type."""


def compare(a: BenchmarkResult, b: BenchmarkResult) -> Comparison:
    """Compare two results.

    Raises:
        DataError: They are of other questions, or were scored by another rule.
    """
    if a.rule != b.rule or a.aggregation != b.aggregation:
        raise DataError(
            f"{a.benchmark}: scored by {a.rule}, {a.aggregation} and by {b.rule}, {b.aggregation}; "
            f"score the older answers again"
        )
    missing = sorted(a.questions.keys() ^ b.questions.keys())
    if missing or not a.questions:
        raise DataError(
            f"{a.benchmark}: {len(missing)} questions are in one result only, first "
            f"{missing[:1]}; compare runs over the same questions (same --limit)"
        )
    names = list(a.questions)
    differences = [b.questions[name][0] - a.questions[name][0] for name in names]
    clusters = [a.questions[name][1] for name in names]
    groups = [a.questions[name][2] for name in names]
    difference, interval, p_value = paired_test(
        differences, macro_weights(groups), groups, clusters
    )
    return Comparison(
        benchmark=a.benchmark,
        title=a.title,
        a=a.accuracy,
        b=b.accuracy,
        difference=difference,
        interval=interval,
        p_value=p_value,
        wins=sum(value > 0 for value in differences),
        losses=sum(value < 0 for value in differences),
        warnings=tuple(
            f"{name} differs: {first!r} and {second!r}"
            for name, first, second in (
                ("prompt style", a.prompt_style, b.prompt_style),
                ("blank pictures", a.blank_images, b.blank_images),
                *(
                    (key, a.run.get(key), b.run.get(key))
                    for key in dict.fromkeys([*a.run, *b.run])
                    if key not in _OF_THE_MODEL
                ),
            )
            if first != second
        ),
    )


def compare_all(
    a: Mapping[str, BenchmarkResult], b: Mapping[str, BenchmarkResult]
) -> list[Comparison]:
    """Compare every benchmark that both have.

    Raises:
        DataError: They have none in common, or one cannot be compared.
    """
    common = [name for name in a if name in b]
    if not common:
        raise DataError(f"no benchmark in common: {', '.join(a)} and {', '.join(b)}")
    return [compare(a[name], b[name]) for name in common]


def comparison_table(comparisons: list[Comparison]) -> str:
    """Markdown, in points of a percent."""
    lines = [
        "| Benchmark | A | B | B - A | 95 % | p | better | worse |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    notes = []
    for row in comparisons:
        low, high = row.interval
        lines.append(
            f"| {row.title} | {100 * row.a:.1f} | {100 * row.b:.1f} | {100 * row.difference:+.1f} "
            f"| {100 * low:+.1f} to {100 * high:+.1f} | {row.p_value:.3f} | {row.wins} "
            f"| {row.losses} |"
        )
        notes += [f"- {row.title}: {warning}" for warning in row.warnings]
    return "\n".join([*lines, *([""] if notes else []), *notes]) + "\n"
