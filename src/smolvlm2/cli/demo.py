"""The whole path on a small real problem: handwritten digits, from components to a report.

Every part is the one that the full recipes use; only sizes differ. Interrupted, it goes on.
"""

import platform
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as version_of
from pathlib import Path
from typing import Any

from smolvlm2 import __version__
from smolvlm2.cli.demo_parts import make_components, prepare_demo, read_texts
from smolvlm2.cli.report import write_report
from smolvlm2.config import find_recipe, load_config
from smolvlm2.data.demo_digits import write_demo_data
from smolvlm2.errors import ConfigError
from smolvlm2.evaluation.benchmark import load_benchmark
from smolvlm2.evaluation.runner import BenchmarkResult, evaluate, examples
from smolvlm2.model.hub import write_json
from smolvlm2.model.smolvlm import SmolVLM
from smolvlm2.processing.processor import Processor
from smolvlm2.training.memory import count_parameters
from smolvlm2.training.progress import Progress
from smolvlm2.training.recipe import Recipe
from smolvlm2.training.run_folder import RunFolder
from smolvlm2.training.signals import EXIT_CODES
from smolvlm2.training.stage import build_trainer

BENCHMARKS = {
    "vision": ("which_digit", "read_digits"),
    "video": ("which_digit", "which_way", "video_digit", "how_many_changes", "which_image"),
}
"""What is asked after each stage; the first question of the vision stage is asked again."""
EXAMPLES = {"which_digit": 4, "read_digits": 2, "which_way": 4, "how_many_changes": 2}
"""Answered questions that the report shows, by benchmark."""
PACKAGES = ("torch", "numpy", "pillow", "av", "tokenizers", "scikit-learn")
"""Whose versions the summary names."""


def run_demo(output: str | Path, overrides: tuple[str, ...] = (), **counts: int) -> dict[str, Any]:
    """Make data and components, train both stages, evaluate each, write summary and report.

    Args:
        output: Folder of the demo; what is finished there is not done again.
        overrides: ``key=value`` for both stages' recipes.
        counts: How much data to draw, as ``data.demo_digits.DemoSettings`` names it.

    Returns:
        What ``summary.json`` holds.

    Raises:
        ConfigError: ``output`` is a file.
        SystemExit: A signal ended a stage before its last step; with 75, start it again.
    """
    output = Path(output)
    if output.exists() and not output.is_dir():
        raise ConfigError(f"--output {output}: is a file; give a folder")
    clock = _Clock()
    with clock("data"):
        _say("drawing pages and clips of handwritten digits, in the layouts of the hub")
        write_demo_data(output / "data", **counts)
    with clock("components"):
        _say("writing a small SigLIP and a small SmolLM2 with random weights")
        siglip, smollm2 = make_components(output / "components", read_texts(output / "data/raw"))
    with clock("prepare"):
        _say("preparing: manifest, geometry and ledger of each source")
        prepare_demo(output / "data", smollm2)
    places = (
        f"model.vision_encoder.name={siglip}",
        f"model.text_decoder.name={smollm2}",
        f"data.root={output / 'data'}",
        *overrides,
    )
    stages, scores = [], []
    checkpoint: Path | None = None
    for name in ("vision", "video"):
        recipe = load_config(Recipe, find_recipe(f"tiny/train_{name}"), overrides=places)
        folder = output / f"{name}_stage"
        _say(f"{name} stage: {recipe.training.max_steps} steps")
        with clock(f"train {name}"):
            _train(recipe, folder, checkpoint)
        with clock(f"evaluate {name}"):
            scores += _evaluate(folder, output / "data/held_out", name)
        stages.append(_stage_facts(name, recipe, folder))
        checkpoint = folder
    assert checkpoint is not None
    summary = {
        "seconds": round(clock.total, 1),
        "seconds_by_part": clock.parts,
        "scores": scores,
        "losses": {stage["name"]: stage["losses"] for stage in stages},
        "parameters": asdict(count_parameters(SmolVLM.from_pretrained(checkpoint).config)),
        "versions": _versions(),
    }
    write_json(summary, output / "summary.json")
    write_report(_report(summary, stages, output), output / "report.html")
    _print_scores(scores, output)
    return summary


def _train(recipe: Recipe, folder: Path, checkpoint: Path | None) -> None:
    with Progress(recipe.training.max_steps, label=f"{recipe.stage} stage") as progress:
        trainer = build_trainer(recipe, folder, checkpoint=checkpoint, progress=progress.update)
        ending = trainer.train()
    if ending != "finished":
        _say(
            f"stopped by a signal and saved at step {trainer.state.step} of "
            f"{recipe.training.max_steps}; start the demo again to go on"
        )
        sys.exit(EXIT_CODES["time"])


def _evaluate(folder: Path, questions: Path, stage: str) -> list[dict[str, Any]]:
    """Scores with the pixels and, as a control, on grey pictures: the model must look."""
    model, processor = SmolVLM.from_pretrained(folder), Processor.from_pretrained(folder)
    scores = []
    for name in BENCHMARKS[stage]:
        result, control = (
            _ask(model, processor, name, questions, folder, blank) for blank in (False, True)
        )
        _say(
            f"{name:18} {result.accuracy:6.1%}  without pixels {control.accuracy:6.1%}"
            + (f"  chance {result.chance:6.1%}" if result.chance is not None else "")
        )
        scores.append(
            {
                "name": name,
                "stage": stage,
                "accuracy": result.accuracy,
                "control": control.accuracy,
                "chance": result.chance,
                "n": result.n,
            }
        )
    return scores


def _ask(
    model: SmolVLM, processor: Processor, name: str, questions: Path, folder: Path, blank: bool
) -> BenchmarkResult:
    return evaluate(
        model,
        processor,
        load_benchmark(name),
        questions,
        batch_size=64,
        blank_images=blank,
        answers_path=folder / "answers" / f"{name}{'.blank' if blank else ''}.jsonl",
    )


def _stage_facts(name: str, recipe: Recipe, folder: Path) -> dict[str, Any]:
    log = [line for line in RunFolder(folder).log if "loss" in line]
    losses = [line["loss"] for line in log if line["loss"] is not None]
    tail = losses[-max(1, len(losses) // 20) :]
    return {
        "name": name,
        "log": log,
        "unfreeze_step": recipe.training.unfreeze_vision_after_steps,
        "losses": {"first": losses[0], "last": sum(tail) / len(tail)},
    }


def _report(summary: dict[str, Any], stages: list[dict[str, Any]], output: Path) -> dict[str, Any]:
    """The summary as the report wants it."""
    shown = []
    for name, count in EXAMPLES.items():
        asked = next(stage for stage in reversed(BENCHMARKS) if name in BENCHMARKS[stage])
        answers = output / f"{asked}_stage" / "answers" / f"{name}.jsonl"
        shown += examples(load_benchmark(name), output / "data/held_out", answers, count=count)
    facts: dict[str, Any] = {
        "parameters": f"{sum(summary['parameters'].values()):,}",
        "time": f"{summary['seconds']:.0f} s",
        **{f"{part}": f"{seconds:.0f} s" for part, seconds in summary["seconds_by_part"].items()},
    }
    for stage in stages:
        first, last = stage["losses"]["first"], stage["losses"]["last"]
        facts[f"{stage['name']} stage, steps"] = len(stage["log"])
        facts[f"{stage['name']} stage, loss"] = f"{first:.2f} to {last:.2f}"
    facts |= summary["versions"]
    run, questions = output / "video_stage", output / "data/held_out"
    media = questions / "media"
    return {
        "title": "SmolVLM2 on handwritten digits",
        "subtitle": "From random components through both stages, on a CPU",
        "stages": [
            {key: stage[key] for key in ("name", "log", "unfreeze_step")} for stage in stages
        ],
        "scores": summary["scores"],
        "examples": shown,
        "facts": facts,
        "next": [
            {
                "text": "Ask the model about a page it has never seen",
                "command": f"smolvlm2 generate {run} --image {media}/which_digit/00000_0.png "
                "--prompt 'Which digit is this?'",
            },
            {
                "text": "Score it again",
                "command": f"smolvlm2 evaluate {run} --benchmarks which_way --data {questions}",
            },
            {
                "text": "See what the full-size recipe would do, without starting it",
                "command": "smolvlm2 train-vision --model-size 256m --dry-run",
            },
        ],
    }


def _versions() -> dict[str, str]:
    versions = {"smolvlm2": __version__, "python": platform.python_version()}
    for name in PACKAGES:
        try:
            versions[name] = version_of(name)
        except PackageNotFoundError:
            continue
    return versions


def _print_scores(scores: list[dict[str, Any]], output: Path) -> None:
    print(f"\n{'stage':8} {'question':18} {'accuracy':>9} {'no pixels':>10} {'chance':>8} {'n':>5}")
    for score in scores:
        chance = f"{score['chance']:8.1%}" if score["chance"] is not None else f"{'':8}"
        print(
            f"{score['stage']:8} {score['name']:18} {score['accuracy']:9.1%} "
            f"{score['control']:10.1%} {chance} {score['n']:5}"
        )
    print(f"\nreport   {output / 'report.html'}\nsummary  {output / 'summary.json'}")
    image = output / "data/held_out/media/which_digit/00000_0.png"
    print("next     smolvlm2 generate", output / "video_stage", f"--image {image}")


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


class _Clock:
    """Seconds of each part and in all."""

    def __init__(self) -> None:
        self._start = time.perf_counter()
        self.parts: dict[str, float] = {}

    @contextmanager
    def __call__(self, part: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.parts[part] = round(time.perf_counter() - start, 1)

    @property
    def total(self) -> float:
        """Since the demo began."""
        return time.perf_counter() - self._start
