"""Evaluation during training: the same runner, on a small fixed suite, with the model in place."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from smolvlm2.evaluation.benchmark import load_benchmark
from smolvlm2.evaluation.published_files import find_questions
from smolvlm2.evaluation.ranks import ONE_RANK, Ranks
from smolvlm2.evaluation.runner import evaluate
from smolvlm2.processing.processor import Processor

Hook = Callable[[Any, int], dict[str, float]]


def make_hook(
    processor: Processor,
    benchmarks: Sequence[str],
    data_root: str | Path,
    *,
    limit: int = 100,
    batch_size: int = 16,
    ranks: Ranks = ONE_RANK,
) -> Hook:
    """A function of (model, step) that scores the first questions of each benchmark.

    Question files are read here, so that a missing one is told before training starts. The model
    is used as it stands: no copy, no change of mode, and no random number is drawn.

    Args:
        processor: Of the model in training.
        benchmarks: Names or YAML files.
        data_root: Where the questions lie.
        limit: Questions of each.
        batch_size: Questions answered together.
        ranks: Processes that train together; every one calls the hook.

    Returns:
        ``hook(model, step) -> {"eval/<name>": score, "eval/<name>/low": ..., ".../high": ...}``.

    Raises:
        ConfigError: A benchmark is unknown.
        DataNotFoundError: Its questions are missing.
    """
    chosen = [load_benchmark(name) for name in benchmarks]
    for benchmark in chosen:
        find_questions(benchmark, data_root, limit=1)

    def hook(model: Any, step: int) -> dict[str, float]:
        metrics: dict[str, float] = {}
        for benchmark in chosen:
            result = evaluate(
                model,
                processor,
                benchmark,
                data_root,
                limit=limit,
                batch_size=batch_size,
                ranks=ranks,
                identity={"step": step},
            )
            name = f"eval/{benchmark.name}"
            metrics[name] = result.accuracy
            metrics[f"{name}/low"], metrics[f"{name}/high"] = result.interval
        return metrics

    return hook
