"""A run's log as columns: what the report draws."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from smolvlm2.cli.report_chart import Series
from smolvlm2.errors import CheckpointNotFoundError
from smolvlm2.training.run_folder import RunFolder
from smolvlm2.training.writers import numbers_of

EXAMPLES = 3
"""Skips of each reason that are shown."""


@dataclass(kw_only=True)
class History:
    """What a run wrote down so far."""

    lines: int = 0
    """Steps of the log."""
    columns: dict[str, tuple[list[float], list[float]]] = field(default_factory=dict)
    """Steps and values of every number, by its name in the log."""
    failures: list[tuple[int, str]] = field(default_factory=list)
    """Evaluations that failed: step and reason."""
    nonfinite: list[int] = field(default_factory=list)
    """Steps that were left out because loss or gradient was not finite."""
    skips: dict[tuple[str, str], int] = field(default_factory=dict)
    """Samples that could not be read, by what read them and why."""
    examples: dict[tuple[str, str], list[tuple[str, str]]] = field(default_factory=dict)
    """Some of them: id and detail."""

    def series(self, name: str, **style: str) -> Series | None:
        """A column as a curve; None where there is none."""
        if name not in self.columns:
            return None
        steps, values = self.columns[name]
        return Series(steps=np.array(steps), values=np.array(values, dtype=np.float64), **style)

    def total(self, name: str) -> float:
        """Sum of a column."""
        return float(sum(self.columns[name][1])) if name in self.columns else 0.0

    def median(self, name: str) -> float | None:
        """Median of a column; None where there is none."""
        return float(np.median(self.columns[name][1])) if name in self.columns else None

    def last(self, name: str) -> float | None:
        """Newest value of a column."""
        return self.columns[name][1][-1] if name in self.columns else None

    def names(self, wanted: Callable[[str], bool]) -> list[str]:
        """Names of columns, in the order of the log."""
        return [name for name in self.columns if wanted(name)]


def read_history(run: RunFolder) -> History:
    """Read a run's log and skips; half a line at their ends is left out.

    Raises:
        CheckpointNotFoundError: The folder is not that of a run.
    """
    if not (Path(run.root) / "config.yaml").is_file():
        raise CheckpointNotFoundError(f"{run.root}: no config.yaml in it; expected a run folder")
    history = History()
    for line in run.log:
        _add(history, line)
    counts: Counter[tuple[str, str]] = Counter()
    for line in run.skips:
        key = line.get("during", "training"), line["reason"]
        counts[key] += 1
        examples = history.examples.setdefault(key, [])
        if len(examples) < EXAMPLES:
            examples.append((line["sample_id"], line["detail"]))
    history.skips = dict(counts.most_common())
    return history


def _add(history: History, line: dict[str, Any]) -> None:
    step = line["step"]
    history.lines += "loss" in line
    if "evaluation_failure" in line:
        history.failures.append((step + 1, line["evaluation_failure"]))
    if "nonfinite" in line:
        history.nonfinite.append(step)
    columns = history.columns
    for name, value in numbers_of(line):
        if name not in columns:
            columns[name] = [], []
        steps, values = columns[name]
        steps.append(step)
        values.append(value)
