"""Arguments of the two training commands: the specification's flags, then ``key=value``."""

import argparse
import contextlib
import logging
import math
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from smolvlm2.config import find_recipe, load_config
from smolvlm2.errors import ConfigError, SmolVLMError
from smolvlm2.training.launch import Launch, let_threads_sleep, read_launch
from smolvlm2.training.passed_over import parse_range
from smolvlm2.training.recipe import Recipe, TrainingSettings, with_model
from smolvlm2.training.signals import Ending, StopRequest, parse_duration

if TYPE_CHECKING:
    from smolvlm2.training.checkups import MakeHook

logger = logging.getLogger(__name__)

Stage = Literal["vision", "video"]


def parse_arguments(stage: Stage, arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line of a stage; without ``--vision-checkpoint`` video needs ``--config``.

    Source: the specification's commands; ``--config``, ``--resume``, ``--replan``,
    ``--skip-steps``, ``--stop-after``, ``--restart``, ``--device``, ``--dry-run`` and
    ``key=value`` are ours.
    """
    parser = _parser(stage)
    options = parser.parse_intermixed_args(arguments)
    if options.resume and "=" in options.resume:  # a setting that stood behind a bare --resume
        options.overrides.insert(0, options.resume)
        options.resume = "auto"
    if options.dry_run and "=" in options.dry_run:
        options.overrides.insert(0, options.dry_run)
        options.dry_run = "plan"
    if options.dry_run not in (None, "plan", "step"):
        parser.error(f"argument --dry-run: {options.dry_run!r} is unknown; expected step")
    return options


def _parser(stage: Stage) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=f"smolvlm2 train-{stage}",
        description=f"Train the {stage} stage. A run that was interrupted goes on by itself when "
        "it is started again with the same recipe and output directory.",
        epilog="Any setting of the recipe can follow as key=value, such as training.max_steps=100.",
    )
    parser.add_argument(
        "--model-size",
        choices=["256m", "500m"],
        help="model that the stage trains, unless a checkpoint or recipe has its own (default: "
        "256m)",
    )
    parser.add_argument("--output-dir", help="run folder (default: checkpoints/STAGE_stage_SIZE)")
    parser.add_argument(
        "--config",
        action="append",
        default=[],
        metavar="RECIPE",
        help="recipe by name or file, instead of train_STAGE_stage; repeatable",
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
    parser.add_argument(
        "--resume",
        nargs="?",
        const="auto",
        metavar="STEP",
        help="checkpoint to go on from (default: auto, the newest whole one)",
    )
    parser.add_argument(
        "--replan",
        action="store_true",
        help="go on with other data: from the checkpoint on, mixture, limits, packs and prepared "
        "data are as they are now",
    )
    parser.add_argument(
        "--skip-steps",
        metavar="A:B",
        help="pass over the data of steps A to B - 1 of the run that goes on",
    )
    parser.add_argument(
        "--stop-after",
        metavar="TIME",
        help="save and exit with status 75 after this long, such as 3h50m",
    )
    parser.add_argument("--restart", action="store_true", help="throw the run in the folder away")
    parser.add_argument("--device", help="cuda, cpu, mps (default: cuda if there, else cpu)")
    parser.add_argument(
        "--dry-run",
        nargs="?",
        const="plan",
        metavar="step",
        help="print recipe, plan, parameters, memory and cost; no run. --dry-run=step also "
        "executes one step of each phase with random weights on generated samples",
    )
    parser.add_argument(
        "--full", action="store_true", help="with --dry-run=step: a whole pack on a CPU too"
    )
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    return parser


def read_recipe(
    stage: Stage,
    options: argparse.Namespace,
    launcher: Mapping[str, bool | int | str] | None = None,
) -> Recipe:
    """The recipe that a command line asks for.

    What a launcher's YAML sets goes before the recipe's files, and behind flags and ``key=value``.

    ``--batch-size`` moves a pack's capacity; the samples of a step stay the recipe's unless
    ``--gradient-accumulation-steps`` is given too.
    """
    names = options.config or [f"train_{stage}_stage"]
    if options.model_size or not options.config:
        names = [f"model_{_size(options)}", *names]
    for override in options.overrides:
        if "=" not in override:
            raise ConfigError(f"argument {override!r} is neither an option nor key=value")
    files = [find_recipe(name) for name in names]
    if options.checkpoint is None:
        files = with_model(files)
    given = [
        f"{key}={str(value).lower() if isinstance(value, bool) else value}"
        for key, value in (launcher or {}).items()
    ]
    flags = [*given, *_flag_overrides(options)]
    recipe = load_config(Recipe, *files, overrides=[*flags, *options.overrides])
    if options.batch_size is not None and options.gradient_accumulation_steps is None:
        base = load_config(Recipe, *files, overrides=options.overrides).training
        same = _same_samples(base, options.batch_size)
        recipe = load_config(Recipe, *files, overrides=[*flags, *options.overrides, *same])
    if recipe.stage != stage:
        raise ConfigError(
            f"{', '.join(map(str, files))}: is a recipe of the {recipe.stage} stage; run it with "
            f"train_{recipe.stage}"
        )
    return recipe


def _size(options: argparse.Namespace) -> str:
    return options.model_size or "256m"


def check_size(options: argparse.Namespace, recipe: Recipe) -> str | None:
    """A warning where a size is asked for that the stage's starting point does not have.

    Raises:
        CheckpointNotFoundError: Nothing to start from; told before torch is loaded.
    """
    ignored = [override for override in options.overrides if override.startswith("model.")]
    if ignored and options.checkpoint is not None:
        return (
            f"{', '.join(ignored)} has no effect: the model's settings are those of "
            f"{options.checkpoint}, which the stage starts from"
        )
    if options.model_size is None:
        return None
    from smolvlm2.model.component_shapes import component_shapes
    from smolvlm2.training.starting_point import model_facts, starting_config

    named = load_config(Recipe, find_recipe(f"model_{options.model_size}")).model
    told = model_facts(component_shapes(named))
    found = model_facts(starting_config(recipe, options.checkpoint))
    other = [
        f"{name} {found[name]:g} (not {told[name]:g})" for name in told if told[name] != found[name]
    ]
    if not other:
        return None
    start = options.checkpoint or "the recipe"
    return f"--model-size {options.model_size} has no effect: {start} has {', '.join(other)}"


def _warn(warning: str | None) -> None:
    if warning is not None:
        logger.warning(warning)


def _flag_overrides(options: argparse.Namespace) -> list[str]:
    overrides = []
    if options.batch_size is not None:
        overrides.append(f"training.per_device_train_batch_size={options.batch_size}")
    if options.gradient_accumulation_steps is not None:
        steps = options.gradient_accumulation_steps
        overrides.append(f"training.gradient_accumulation_steps={steps}")
    if options.gradient_checkpointing:
        overrides.append("training.gradient_checkpointing=true")
        overrides.append("training.activation_checkpointing=null")  # would go before it
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


def run_stage(
    stage: Stage,
    arguments: Sequence[str] | None = None,
    *,
    make_hook: "MakeHook | None" = None,
    at_end: Callable[[Path], None] | None = None,
) -> None:
    """Train a stage, or with ``--dry-run`` say what would be done.

    Args:
        stage: Which.
        arguments: Of the command line; None: the process's.
        make_hook: Makes the evaluation that a recipe asks for.
        at_end: Called on rank 0 with the run folder when training has ended in order.

    Raises:
        SystemExit: With 75, when the time of ``--stop-after`` is over before the run is; with 130
            after Ctrl-C.
    """
    let_threads_sleep(os.environ)
    options = parse_arguments(stage, arguments)
    seconds = parse_duration(options.stop_after) if options.stop_after else None
    stop = StopRequest(seconds)
    launch = read_launch(os.environ)
    _set_up_logging(launch)
    recipe = read_recipe(stage, options, launch.settings)
    if options.dry_run:
        from smolvlm2.training.dry_run import describe

        if launch.leads:
            print(describe(recipe, options.checkpoint))
            _warn(check_size(options, recipe))
        if options.dry_run == "step":
            from smolvlm2.training.dry_step import dry_step

            text = dry_step(
                recipe,
                options.checkpoint,
                full=options.full,
                device=options.device,
                launch=launch,
            )
            if launch.leads:
                print(f"\n{text}")
        return
    if stage == "video" and options.checkpoint is None and not options.config:
        raise ConfigError(
            "the video stage starts from a vision stage; give --vision-checkpoint "
            f"checkpoints/vision_stage_{_size(options)}, or a hub id"
        )
    from smolvlm2.training.planning import prepared_folder
    from smolvlm2.training.starting_point import default_folder

    with _said_once_a_machine(launch):
        prepared_folder(recipe)
        warning = check_size(options, recipe)
        output = options.output_dir or default_folder(
            recipe, options.checkpoint, options.model_size
        )
    _warn(warning)
    ending = _train(stage, options, recipe, launch, stop, Path(output), make_hook, at_end)
    if stop.exit_code(ending):
        sys.exit(stop.exit_code(ending))


def _train(
    stage: Stage,
    options: argparse.Namespace,
    recipe: Recipe,
    launch: Launch,
    stop: StopRequest,
    output: Path,
    make_hook: "MakeHook | None",
    at_end: Callable[[Path], None] | None,
) -> Ending:
    from smolvlm2.training.progress import Progress
    from smolvlm2.training.stage import build_trainer

    with contextlib.ExitStack() as stack:
        stack.enter_context(stop)  # from now on: loading weights takes a while
        trainer = build_trainer(
            recipe,
            output,
            checkpoint=options.checkpoint,
            restart=options.restart,
            resume=_resume_step(options),
            replan=options.replan,
            skip_steps=parse_range(options.skip_steps) if options.skip_steps else None,
            device=options.device,
            launch=launch,
            make_hook=make_hook,
            stop=stop,
        )
        steps = trainer.recipe.training.max_steps
        if launch.leads:
            progress = stack.enter_context(Progress(steps, label=f"{stage} stage"))
            trainer.progress = progress.update
        ending = trainer.train()
    if launch.leads:
        trainer.run.end(stop.exit_code(ending))
        done = f"{output}: {trainer.state.step} of {steps} steps, {trainer.state.samples} samples"
        if ending == "finished":
            print(f"{done}; try it with")
            print(f"  smolvlm2 generate {output} --image PHOTO --prompt 'What is this?'")
        else:
            why = f"received {stop.signal}" if stop.signal else "asked to stop"
            print(f"{done}; {why}. Start it again to go on")
        if at_end is not None:
            at_end(output)
    # Launchers end all processes with the first that does not end with 0, as out of time none does.
    trainer.world.gather(None, at="end")
    trainer.world.close()
    return ending


@contextlib.contextmanager
def _said_once_a_machine(launch: Launch) -> Iterator[None]:
    """Let the first rank of each machine speak of what all of them find out by themselves."""
    try:
        yield
    except SmolVLMError as error:
        error.shared = launch.local_rank > 0
        raise


def _resume_step(options: argparse.Namespace) -> int | None:
    """The step of ``--resume``; None for the newest checkpoint."""
    if options.resume is not None and options.restart:
        raise ConfigError("--resume and --restart contradict each other; give one of them")
    if options.resume in (None, "auto"):
        return None
    try:
        return int(options.resume)
    except ValueError:
        raise ConfigError(
            f"--resume {options.resume}: expected a step, or auto for the newest checkpoint"
        ) from None


def _set_up_logging(launch: Launch) -> None:
    """Rank 0 speaks; the others only of what nobody else can tell."""
    logging.basicConfig(
        level=logging.INFO if launch.leads else logging.ERROR,
        format="%(levelname)s %(message)s"
        if launch.size == 1
        else f"%(levelname)s [rank {launch.rank}] %(message)s",
    )
    if launch.ignored and launch.leads:
        keys = ", ".join(f"{key}={value}" for key, value in launch.ignored.items())
        logger.info("keys of the launcher without meaning here: %s", keys)
