"""Scores of a checkpoint: what ``smolvlm2 evaluate`` prints and writes."""

import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

from smolvlm2.cli.checkpoint import load_checkpoint
from smolvlm2.errors import ConfigError
from smolvlm2.evaluation.benchmark import load_benchmark
from smolvlm2.evaluation.questions import read_questions
from smolvlm2.evaluation.runner import BenchmarkResult, evaluate


def evaluate_checkpoint(
    checkpoint: str,
    benchmarks: Sequence[str],
    data: Path,
    *,
    output: Path | None = None,
    limit: int | None = None,
    batch_size: int = 16,
    blank_images: bool = False,
    device: str = "auto",
    dtype: str = "auto",
) -> list[BenchmarkResult]:
    """Evaluate, print a line a benchmark, and write ``output``.

    Args:
        checkpoint: Run folder, checkpoint folder or hub id.
        benchmarks: Names, or paths of benchmark YAMLs.
        data: Folder of the question files.
        output: JSON of the results; answers go to a folder of the same name, and a killed run
            continues from there.
        limit: Only so many questions of each.
        batch_size: Questions answered together.
        blank_images: The control run on mid-grey pictures.
        device: A torch device, or ``auto``.
        dtype: A torch dtype's name, or ``auto``.

    Raises:
        ConfigError: No benchmark is named, or one is unknown.
        DataNotFoundError: A question file is missing; told before the checkpoint is loaded.
    """
    if not benchmarks:
        raise ConfigError("--benchmarks names none; expected names with commas between")
    chosen = [load_benchmark(name) for name in benchmarks]
    for benchmark in chosen:
        read_questions(data / benchmark.file, limit=1)
    model, processor = load_checkpoint(checkpoint, device=device, dtype=dtype)
    results = []
    for benchmark in chosen:
        answers = None
        if output is not None:
            control = ".blank" if blank_images else ""
            answers = output.with_suffix("") / f"{benchmark.name}{control}.jsonl"
        result = evaluate(
            model,
            processor,
            benchmark,
            data,
            batch_size=batch_size,
            limit=limit,
            blank_images=blank_images,
            answers_path=answers,
            progress=_progress(benchmark.name) if sys.stderr.isatty() else None,
        )
        print(summary_line(result))
        results.append(result)
    if output is not None:
        _write(output, {"checkpoint": checkpoint, "results": [asdict(r) for r in results]})
    return results


def summary_line(result: BenchmarkResult) -> str:
    """Name, accuracy with its interval, questions, chance, and what could not be read."""
    low, high = result.interval
    chance = "" if result.chance is None else f", chance {result.chance:.1%}"
    blank = " on blank pictures" if result.blank_images else ""
    unreadable = f", {len(result.unreadable)} unreadable" if result.unreadable else ""
    return (
        f"{result.benchmark}{blank}: {result.accuracy:.1%} ({low:.1%} to {high:.1%}) "
        f"of {result.n} questions{chance}{unreadable}"
    )


def _progress(name: str) -> Callable[[int, int], None]:
    def show(done: int, total: int) -> None:
        end = "\n" if done == total else ""
        print(f"\r{name}: {done}/{total}", end=end, file=sys.stderr, flush=True)

    return show


def _write(path: Path, content: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.partial")
    temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    temporary.replace(path)
