"""Scores of a checkpoint: what ``smolvlm2 evaluate`` and ``smolvlm2 compare`` print and write."""

import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from smolvlm2.errors import ConfigError
from smolvlm2.evaluation.answers import fingerprint
from smolvlm2.evaluation.backends import Backend, NativeBackend
from smolvlm2.evaluation.benchmark import Benchmark, PromptStyle, load_benchmark
from smolvlm2.evaluation.comparison import compare_all, comparison_table
from smolvlm2.evaluation.published_files import find_questions
from smolvlm2.evaluation.ranks import Ranks, launched_ranks
from smolvlm2.evaluation.result import BenchmarkResult
from smolvlm2.evaluation.result_files import read_results, write_results
from smolvlm2.evaluation.runner import Progress, Standing, rescore, run_benchmark
from smolvlm2.evaluation.tables import score_table

BackendName = Literal["smolvlm2", "transformers", "endpoint"]


@dataclass(frozen=True, kw_only=True)
class EvaluationOptions:
    """What the command line sets."""

    style: PromptStyle = "native"
    """Whose prompts."""
    backend: BackendName = "smolvlm2"
    """What runs the checkpoint."""
    address: str | None = None
    """Of an OpenAI-compatible server, up to ``/v1``."""
    timeout_s: float = 120.0
    """Seconds until a request to it is given up."""
    limit: int | None = None
    """Only so many questions of each benchmark."""
    batch_size: int = 16
    """Questions answered together."""
    workers: int | None = None
    """Threads that decode ahead; None: as `decode_threads` has it."""
    max_frames: int | None = None
    """Frames of a clip; None: the checkpoint's."""
    longest_edge: int | None = None
    """Longest edge of an image, in pixels; None: the checkpoint's."""
    blank_images: bool = False
    """Only the control run on mid-grey pictures."""
    control: bool = False
    """The control run too."""
    rescore: bool = False
    """Score the answers of an earlier run again, without the model."""
    device: str = "auto"
    """A torch device, or ``auto``."""
    dtype: str = "auto"
    """A torch dtype's name, or ``auto``."""


def decode_threads(environment: Mapping[str, str]) -> int:
    """This process's share of the machine's cores, from 2 to 16.

    Args:
        environment: Of the process; says how many a launcher has started here.
    """
    affinity = getattr(os, "sched_getaffinity", None)  # not on a Mac
    cores = len(affinity(0)) if affinity else os.cpu_count() or 1
    return min(16, max(2, cores // int(environment.get("LOCAL_WORLD_SIZE", "1"))))


def evaluate_checkpoint(
    checkpoint: str,
    benchmarks: Sequence[str],
    data: Path,
    *,
    output: Path | None = None,
    options: EvaluationOptions | None = None,
) -> list[BenchmarkResult]:
    """Evaluate, print a line a benchmark and a table, and write ``output``.

    Args:
        checkpoint: Run folder, checkpoint folder or hub id; a model's name at an endpoint.
        benchmarks: Names, or paths of benchmark YAMLs.
        data: Data root, or folder of the question files.
        output: JSON of the results, a Markdown table beside it; answers go to a folder of the same
            name, and a killed run continues from there.
        options: Everything else.

    Raises:
        ConfigError: No benchmark is named, one is unknown, ``output`` is no JSON file, or options
            contradict each other.
        DataNotFoundError: A question file is missing; told before the checkpoint is loaded.
    """
    options = options or EvaluationOptions()
    if not benchmarks:
        raise ConfigError("--benchmarks names none; expected names with commas between")
    if (options.backend == "endpoint") != (options.address is not None):
        raise ConfigError("--backend endpoint and --address belong together")
    if options.rescore and output is None:
        raise ConfigError("--rescore needs --output: the answers lie beside it")
    if output is not None and (output.suffix != ".json" or output.is_dir()):
        raise ConfigError(f"--output {output}: expected the name of a file that ends in .json")
    if options.backend == "endpoint" and options.longest_edge is not None:
        raise ConfigError("--longest-edge has no effect at an endpoint: the server resizes")
    chosen = {benchmark.name: benchmark for benchmark in map(load_benchmark, benchmarks)}
    for benchmark in chosen.values():
        benchmark.prompt(options.style)
        find_questions(benchmark, data, limit=1)
    blanks = [True] if options.blank_images else [False, True] if options.control else [False]
    ranks = launched_ranks()
    maker = None if options.rescore else _Backends(checkpoint, options)
    results: list[BenchmarkResult] = []
    controls: dict[str, BenchmarkResult] = {}
    for benchmark in chosen.values():
        for blank in blanks:
            answers = _answers_path(output, benchmark, options.style, blank)
            if maker is None:
                assert answers is not None
                result = rescore(benchmark, data, answers)
                # Whose answers they are, whatever the command line says.
                checkpoint = str(result.run.get("model", checkpoint))
            else:
                result = run_benchmark(
                    maker.make(benchmark, blank),
                    benchmark,
                    data,
                    style=options.style,
                    blank_images=blank,
                    batch_size=options.batch_size,
                    workers=options.workers or decode_threads(os.environ),
                    limit=options.limit,
                    answers_path=answers,
                    progress=_progress(benchmark.name, ranks),
                    ranks=ranks,
                )
            if ranks.rank == 0:
                print(summary_line(result))
            if blank and options.control:
                controls[benchmark.name] = result
            else:
                results.append(result)
        # After each benchmark: a long list that is killed leaves what was finished.
        if output is not None and ranks.rank == 0:
            write_results(output, checkpoint, results, controls, chosen)
    if ranks.rank == 0:
        print(f"\n{score_table(results, controls, chosen)}", end="")
    return results


def compare_files(a: Path, b: Path) -> str:
    """Two results of ``evaluate --output``, benchmark by benchmark, as Markdown.

    Raises:
        DataNotFoundError: A file is missing.
        DataError: They have no benchmark in common, or not the same questions.
    """
    name_a, first = read_results(a)
    name_b, second = read_results(b)
    table = comparison_table(compare_all(first, second))
    alone = [f"- {name}: in {side} only, not compared" for side, name in _alone(first, second)]
    return "\n".join([f"A: {name_a}", f"B: {name_b}", "", table.rstrip("\n"), *alone]) + "\n"


def scores_of(path: Path) -> str:
    """The scores of a result of ``evaluate --output`` as Markdown, for a model card.

    Raises:
        DataNotFoundError: No such file.
        DataError: It is no such result.
    """
    checkpoint, results = read_results(path)
    lines = [
        "| benchmark | score | 95 % | questions | prompts |",
        "| --- | --- | --- | --- | --- |",
    ]
    for result in results.values():
        low, high = result.interval
        blank = ", blank pictures" if result.blank_images else ""
        lines.append(
            f"| {result.title}{blank} | {result.accuracy:.1%} | {low:.1%} to {high:.1%} "
            f"| {result.n} | {result.prompt_style} |"
        )
    name = Path(checkpoint).name
    return "\n".join([*lines, "", f"Of `{name}`, as `smolvlm2 evaluate` scores it."]) + "\n"


def _alone(
    first: Mapping[str, BenchmarkResult], second: Mapping[str, BenchmarkResult]
) -> list[tuple[str, str]]:
    """Benchmarks that one file has and the other has not, and which."""
    pairs = (("A", first, second), ("B", second, first))
    return [(side, name) for side, mine, other in pairs for name in mine if name not in other]


def summary_line(result: BenchmarkResult) -> str:
    """Name, score with its interval, questions, chance, and what has no answer."""
    low, high = result.interval
    chance = "" if result.chance is None else f", chance {result.chance:.1%}"
    blank = " on blank pictures" if result.blank_images else ""
    unanswered = f", {len(result.unanswered)} without answer" if result.unanswered else ""
    return (
        f"{result.benchmark}{blank}: {result.accuracy:.1%} ({low:.1%} to {high:.1%}) "
        f"of {result.n} questions{chance}{unanswered}"
    )


class _Backends:
    """Makes a backend for each benchmark; the checkpoint is loaded once."""

    def __init__(self, checkpoint: str, options: EvaluationOptions) -> None:
        self.checkpoint, self.options = checkpoint, options
        if options.backend == "endpoint":
            return
        from smolvlm2.cli.checkpoint import choose_device, load_checkpoint
        from smolvlm2.model.hub import SMALL_FILES, resolve_checkpoint

        device = options.device
        if choose_device(device) == "cuda" and "LOCAL_RANK" in os.environ:
            device = f"cuda:{os.environ['LOCAL_RANK']}"  # one a process of the launcher
        self.folder = None
        if options.backend == "transformers":
            from smolvlm2.evaluation.transformers_models import load_transformers

            device = choose_device(device)
            self.model, self.processor = load_transformers(
                checkpoint, device=device, dtype=options.dtype
            )
        else:
            # Once: a run that still trains goes on to its next step meanwhile.
            self.folder = resolve_checkpoint(
                checkpoint, needed="tokenizer.json", patterns=(*SMALL_FILES, "*.safetensors")
            )
            self.model, self.processor = load_checkpoint(
                str(self.folder), device=device, dtype=options.dtype
            )
        self.weights = fingerprint(self.model)

    def make(self, benchmark: Benchmark, blank: bool) -> Backend:
        from smolvlm2.processing.video import VideoSettings

        options = self.options
        common: dict[str, Any] = {
            "benchmark": benchmark,
            "style": options.style,
            "blank_images": blank,
        }
        frames = options.max_frames
        video = VideoSettings() if frames is None else VideoSettings(max_frames=frames)
        if options.backend == "endpoint":
            from smolvlm2.evaluation.endpoint import EndpointBackend

            return EndpointBackend(
                address=str(options.address),
                model=self.checkpoint,
                video=video,
                timeout_s=options.timeout_s,
                **common,
            )
        from smolvlm2.processing.processor import Processor

        if not isinstance(self.processor, Processor):
            from smolvlm2.evaluation.transformers_models import TransformersBackend

            if options.longest_edge is not None:
                raise ConfigError(
                    f"--longest-edge has no effect on {self.checkpoint}: it is no SmolVLM, and its "
                    f"own processor resizes"
                )
            return TransformersBackend(
                model=self.model,
                processor=self.processor,
                name=self.checkpoint,
                weights=self.weights,
                video=video,
                **common,
            )
        if frames is not None:
            self.processor.video.max_frames = frames
        if options.longest_edge is not None:
            self.processor.image.longest_edge = options.longest_edge
        identity = {
            "model": self.checkpoint,
            "weights": self.weights,
            "dtype": str(getattr(self.model, "dtype", "")).removeprefix("torch."),
            "runs_in": options.backend,
        }
        if self.folder is not None:
            identity["folder"] = self.folder.name  # the step of a run, the commit at the hub
        return NativeBackend(
            model=self.model, processor=self.processor, identity=identity, **common
        )


def _answers_path(
    output: Path | None, benchmark: Benchmark, style: PromptStyle, blank: bool
) -> Path | None:
    if output is None:
        return None
    marks = ("" if style == "native" else f".{style}") + (".blank" if blank else "")
    return output.with_suffix("") / f"{benchmark.name}{marks}.jsonl"


def _progress(name: str, ranks: Ranks) -> Progress | None:
    if ranks.rank or not sys.stderr.isatty():
        return None

    def show(now: Standing) -> None:
        left = f"{now.seconds_left / 60:.0f} min left" if now.done < now.total else "done"
        line = f"{name}: {now.done}/{now.total}, score {now.score:.1%}, {left}"
        end = "\n" if now.done == now.total else ""
        print(f"\r{line:<70}", end=end, file=sys.stderr, flush=True)

    return show
