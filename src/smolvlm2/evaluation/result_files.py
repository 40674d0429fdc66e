"""One JSON file of an evaluation, and the Markdown table beside it."""

import json
import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from smolvlm2.errors import DataError, DataNotFoundError
from smolvlm2.evaluation.benchmark import Benchmark
from smolvlm2.evaluation.result import BenchmarkResult, result_from_json
from smolvlm2.evaluation.tables import report

PACKAGES = (
    "smolvlm2",
    "torch",
    "transformers",
    "tokenizers",
    "numpy",
    "pillow",
    "av",
    "torchcodec",
    "decord",
)
"""Whose versions a result names."""
_MARK = "questions of "
"""Stands for the scores of all questions, which go on one line each benchmark."""


def versions() -> dict[str, str]:
    """Python's version and those of the packages that take part."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def write_results(
    path: Path,
    checkpoint: str,
    results: Sequence[BenchmarkResult],
    controls: Mapping[str, BenchmarkResult] | None = None,
    benchmarks: Mapping[str, Benchmark] | None = None,
) -> None:
    """Write ``path`` and, with the ending ``.md``, the table; each appears only when complete."""
    entries, lines = [], {}
    for result in results:
        entry = result.to_json()
        lines[f'"{_MARK}{result.benchmark}"'] = json.dumps(
            entry.pop("questions"), ensure_ascii=False
        )
        control = (controls or {}).get(result.benchmark)
        entry["controls"] = {"blank_images": control.accuracy} if control else {}
        entries.append({**entry, "questions": f"{_MARK}{result.benchmark}"})
    content = {"checkpoint": checkpoint, "versions": versions(), "results": entries}
    text = json.dumps(content, indent=1, ensure_ascii=False) + "\n"
    for mark, line in lines.items():
        text = text.replace(mark, line)
    _write(path, text)
    _write(path.with_suffix(".md"), report(results, controls, benchmarks))


def read_results(path: Path) -> tuple[str, dict[str, BenchmarkResult]]:
    """The checkpoint that was evaluated, and its results by benchmark.

    Raises:
        DataNotFoundError: No such file.
        DataError: It was not written by ``write_results``.
    """
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        results = []
        for entry in content["results"]:
            entry.pop("controls", None)
            results.append(result_from_json(entry))
        return str(content["checkpoint"]), {result.benchmark: result for result in results}
    except FileNotFoundError as error:
        raise DataNotFoundError(
            f"{path}: no such file; `smolvlm2 evaluate --output {path}` writes it"
        ) from error
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(
            f"{path}: not a result of `smolvlm2 evaluate` ({error!r}); evaluate again"
        ) from error


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.partial")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)
