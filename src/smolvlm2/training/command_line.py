"""Arguments of the two training commands: the specification's flags, then ``key=value``."""

import argparse
import logging
import math
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

from smolvlm2.config import find_recipe, load_config
from smolvlm2.errors import ConfigError, SmolVLMError
from smolvlm2.training.recipe import Recipe, TrainingSettings

Stage = Literal["vision", "video"]


def parse_arguments(stage: Stage, arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line of a stage; without ``--vision-checkpoint`` video needs ``--config``.

    Source: the specification's commands; ``--config``, ``--restart``, ``--device``, ``--dry-run``
    and ``key=value`` are ours.
    """
    parser = argparse.ArgumentParser(
        prog=f"smolvlm2 train-{stage}",
        description=f"Train the {stage} stage. A run that was interrupted goes on by itself when "
        "it is started again with the same recipe and output directory.",
        epilog="Any setting of the recipe can follow as key=value, such as training.max_steps=100.",
    )
    parser.add_argument("--model-size", choices=["256m", "500m"], default="256m")
    parser.add_argument("--output-dir", help="run folder (default: checkpoints/STAGE_stage_SIZE)")
    parser.add_argument(
        "--config",
        action="append",
        default=[],
        metavar="RECIPE",
        help="recipe by name or file, instead of model_SIZE and train_STAGE_stage; repeatable",
    )
    parser.add_argument(
        "--vision-checkpoint" if stage == "video" else "--checkpoint",
        dest="checkpoint",
        help="run, checkpoint folder or hub id to start from"
        + (" (default: the recipe's components)" if stage == "vision" else ""),
    )
    parser.add_argument("--batch-size", type=int, help="samples of a micro-batch on one device")
    parser.add_argument("--gradient-accumulation-steps", type=int)
    parser.add_argument("--gradient-checkpointing", action="store_true", default=None)
    parser.add_argument("--restart", action="store_true", help="throw the run in the folder away")
    parser.add_argument("--device", help="cuda, cpu, mps (default: the best there is)")
    parser.add_argument(
        "--dry-run", action="store_true", help="print recipe, plan, parameters and memory; no run"
    )
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    return parser.parse_intermixed_args(arguments)


def read_recipe(stage: Stage, options: argparse.Namespace) -> Recipe:
    """The recipe that a command line asks for.

    ``--batch-size`` moves a pack's capacity; the samples of a step stay the recipe's unless
    ``--gradient-accumulation-steps`` is given too.
    """
    names = options.config or [f"model_{options.model_size}", f"train_{stage}_stage"]
    for override in options.overrides:
        if "=" not in override:
            raise ConfigError(f"argument {override!r} is neither an option nor key=value")
    files = [find_recipe(name) for name in names]
    flags = _flag_overrides(options)
    recipe = load_config(Recipe, *files, overrides=[*flags, *options.overrides])
    if options.batch_size is not None and options.gradient_accumulation_steps is None:
        base = load_config(Recipe, *files, overrides=options.overrides).training
        flags += _same_samples(base, options.batch_size)
        recipe = load_config(Recipe, *files, overrides=[*options.overrides, *flags])
    if recipe.stage != stage:
        raise ConfigError(
            f"{', '.join(map(str, files))}: is a recipe of the {recipe.stage} stage; run it with "
            f"train_{recipe.stage}"
        )
    return recipe


def _flag_overrides(options: argparse.Namespace) -> list[str]:
    overrides = []
    if options.batch_size is not None:
        overrides.append(f"training.per_device_train_batch_size={options.batch_size}")
    if options.gradient_accumulation_steps is not None:
        steps = options.gradient_accumulation_steps
        overrides.append(f"training.gradient_accumulation_steps={steps}")
    if options.gradient_checkpointing:
        overrides.append("training.gradient_checkpointing=true")
    return overrides


def _same_samples(training: TrainingSettings, batch_size: int) -> list[str]:
    """Overrides under which micro-batches of another size make the recipe's step."""
    packs, rest = divmod(training.samples_per_step, batch_size)
    if rest:
        raise ConfigError(
            f"--batch-size {batch_size} does not divide the recipe's {training.samples_per_step} "
            f"samples a step; choose a divisor, or give --gradient-accumulation-steps too"
        )
    devices = math.gcd(packs, training.reference_devices)
    return [
        f"training.gradient_accumulation_steps={packs // devices}",
        f"training.reference_devices={devices}",
    ]


def run_stage(stage: Stage, arguments: Sequence[str] | None = None) -> None:
    """Train a stage, or with ``--dry-run`` say what would be done."""
    options = parse_arguments(stage, arguments)
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ConfigError(
            f"started with {os.environ['WORLD_SIZE']} processes; this version trains on one "
            f"device, start it without a launcher"
        )
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s")
    recipe = read_recipe(stage, options)
    if options.dry_run:
        from smolvlm2.training.dry_run import describe

        print(describe(recipe, options.checkpoint))
        return
    if stage == "video" and options.checkpoint is None and not options.config:
        raise ConfigError(
            "the video stage starts from a vision stage; give --vision-checkpoint "
            f"checkpoints/vision_stage_{options.model_size}, or a hub id"
        )
    from smolvlm2.training.progress import Progress
    from smolvlm2.training.stage import build_trainer

    output = options.output_dir or Path("checkpoints") / f"{stage}_stage_{options.model_size}"
    with Progress(recipe.training.max_steps, label=f"{stage} stage") as progress:
        trainer = build_trainer(
            recipe,
            output,
            checkpoint=options.checkpoint,
            restart=options.restart,
            device=options.device,
            progress=progress.update,
        )
        trainer.train()
    print(f"{output}: {trainer.state.step} steps, {trainer.state.samples} samples; try it with")
    print(f"  smolvlm2 generate {output} --image PHOTO --prompt 'What is this?'")


def exit_on_error(command: Callable[[], None]) -> None:
    """Run a command; an error meant for the user is one line and exit status 2."""
    try:
        command()
    except SmolVLMError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
