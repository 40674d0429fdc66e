"""From a recipe to a trainer: model, processor, data, plan."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from smolvlm2.errors import ConfigError, ResumeError
from smolvlm2.model.hub import write_json
from smolvlm2.training.checkpoints import TrainingState, find_checkpoint
from smolvlm2.training.checkups import MakeHook
from smolvlm2.training.distributed import World, connect
from smolvlm2.training.launch import Launch
from smolvlm2.training.layout_choice import lay_out_model
from smolvlm2.training.loop import Trainer
from smolvlm2.training.passed_over import Range, ranges_of, record_range
from smolvlm2.training.randomness import PackRandomness
from smolvlm2.training.recipe import Recipe
from smolvlm2.training.run_folder import RunFolder
from smolvlm2.training.segments import PlannedRun
from smolvlm2.training.shared_work import SharedWork
from smolvlm2.training.signals import StopRequest
from smolvlm2.training.stage_parts import (
    check_alike,
    make_parts,
    plan_first,
    take_weights_of_rank_0,
    warn_of_idle_ids,
)
from smolvlm2.training.start_record import record_start, warn_of_another_start
from smolvlm2.training.writers import check_writers


def _check_apart(run: RunFolder, checkpoint: str | Path | None, *, restart: bool) -> None:
    if checkpoint is None or not Path(checkpoint).exists():
        return
    start, root = Path(checkpoint).resolve(), run.root.resolve()
    if restart and (start == root or root in start.parents):
        raise ConfigError(
            f"{checkpoint}: the run would start from the folder that --restart clears; choose "
            f"another --output-dir"
        )


def build_trainer(
    recipe: Recipe,
    output: str | Path,
    *,
    checkpoint: str | Path | None = None,
    restart: bool = False,
    resume: int | None = None,
    replan: bool = False,
    skip_steps: Range | None = None,
    device: str | None = None,
    launch: Launch | None = None,
    make_hook: MakeHook | None = None,
    progress: Callable[[dict[str, Any]], None] | None = None,
    stop: StopRequest | None = None,
) -> Trainer:
    """Everything that a stage needs, at its first step or where it was left. All ranks call it.

    Args:
        recipe: Of the stage.
        output: The run folder; an unfinished run of the same recipe in it goes on.
        checkpoint: What to start from; None: the recipe's components.
        restart: Throw an earlier run in ``output`` away.
        resume: Step of the checkpoint to go on from; None: the newest whole one.
        replan: Begin a new segment there, with this recipe's data settings and the data as they
            are now.
        skip_steps: Steps of the run that goes on whose data are passed over.
        device: Where to train; None: CUDA where there is one, else the CPU.
        launch: How this process was started; None: alone.
        make_hook: Makes the evaluation that the recipe asks for.
        progress: Called on rank 0 with every line of the log.
        stop: Asked before every step whether to save and end.

    Raises:
        ResumeError: The folder cannot take this run, or holds one with another recipe or data.
        ConfigError: The run would start from the folder that it writes to, fewer ranks are here
            than promised, or their data differ.
        CheckpointError: Tokenizer and model do not belong together.
        PlanError: There are more ranks than packs in a step.
        MissingDependencyError: The recipe names a writer whose package is not installed.
    """
    world = join_world(recipe, device, launch)
    run = RunFolder(output)
    resumed, found = _earlier_run(
        run, recipe, world, checkpoint, skip_steps, restart=restart, resume=resume, replan=replan
    )
    position = found[1].position if found else None
    plan_first(run, recipe, checkpoint, world, position=position, replan=replan)
    parts = world.together(
        lambda: make_parts(run, recipe, checkpoint, world, position=position, replan=replan),
        at="start",
    )
    planned = parts.planned
    check_alike(planned, parts.config, world)
    work = SharedWork(world=world)
    held_out, hook = world.together(lambda: parts.watchers(work, make_hook), at="start")
    # Only now that nothing can be missing any more does an earlier run go.
    world.lead(lambda: _begin(run, recipe, planned, world, checkpoint, resumed=resumed), at="start")
    if not found:
        take_weights_of_rank_0(parts.model, world)
    randomness = PackRandomness(seed=recipe.training.seed)
    trainer = Trainer(
        recipe=recipe,
        run=run,
        world=world,
        model=parts.model,
        mesh=lay_out_model(parts.model, recipe, planned.plan.capacity, world, randomness),
        planned=planned,
        reader=parts.reader(),
        randomness=randomness,
        held_out=held_out,
        hook=hook,
        work=work,
        progress=progress,
        stop=stop or StopRequest(),
    )
    if found:
        trainer.resume(*found)
    _settle(trainer, skip_steps if found else None)
    return trainer


def join_world(recipe: Recipe, device: str | None, launch: Launch | None) -> World:
    """Meet the other ranks, with the threads and the patience that a recipe asks for."""
    if recipe.training.threads is not None:
        torch.set_num_threads(recipe.training.threads)
    return connect(
        launch or Launch(),
        device,
        timeout=recipe.parallel.timeout_seconds,
        start_timeout=recipe.parallel.start_timeout_seconds,
    )


def _settle(trainer: Trainer, skip_steps: Range | None) -> None:
    """Record what the user leaves out from here on, and count the steps that there are."""
    run, world, recipe, planned = trainer.run, trainer.world, trainer.recipe, trainer.planned
    step = trainer.state.step
    world.lead(lambda: warn_of_idle_ids(recipe.data.skip_ids, planned.manifests), at="start")
    world.lead(lambda: _record_left_out(run, recipe, step), at="start")
    passed = world.lead(lambda: ranges_of(run), at="start")
    if skip_steps is not None:
        passed = sorted({*passed, skip_steps})
        left = _steps_left(planned, passed)
        world.lead(lambda: record_range(run, skip_steps, step=step, steps=left), at="start")
    steps = _steps_left(planned, passed)
    if steps is not None and steps < recipe.training.max_steps:
        # Learning rates follow the steps that there are; the saved recipe stays as it was.
        trainer.recipe = replace(recipe, training=replace(recipe.training, max_steps=steps))
    facts = planned.facts | {"steps": trainer.recipe.training.max_steps}
    world.lead(lambda: write_json(facts, run.root / "plan" / "plan.json"), at="start")


def _steps_left(planned: PlannedRun, passed: list[Range]) -> int | None:
    """Steps of the run when all its sources have ended; None: they repeat for ever."""
    if planned.steps is None:
        return None
    # What was passed over before the segment in progress is not among the data it has left.
    begun = planned.records[planned.position.segment].first_step
    return planned.steps - sum(end - first for first, end in passed if first >= begun)


def _earlier_run(
    run: RunFolder,
    recipe: Recipe,
    world: World,
    checkpoint: str | Path | None,
    skip: Range | None,
    *,
    restart: bool,
    resume: int | None,
    replan: bool,
) -> tuple[bool, tuple[Path, TrainingState] | None]:
    """Whether an earlier run goes on, and from where; refuses what contradicts the folder."""

    def look() -> bool:
        check_writers(recipe.logging.writers)
        resumed = run.check(recipe, restart=restart, replan=replan)
        _check_apart(run, checkpoint, restart=restart)
        if not resumed and resume is not None:
            raise ResumeError(f"{run.root}: no run to go on from step {resume}; leave out --resume")
        if not resumed and replan:
            raise ResumeError(f"{run.root}: no run to plan anew; leave out --replan")
        if not resumed and skip is not None:
            raise ResumeError(
                f"{run.root}: no run to go on with --skip-steps {skip[0]}:{skip[1]}; data are "
                f"passed over in a run that has a checkpoint before them"
            )
        return resumed

    resumed = world.lead(look, at="start")
    return resumed, find_checkpoint(run, world, resume) if resumed else None


def _begin(
    run: RunFolder,
    recipe: Recipe,
    planned: PlannedRun,
    world: World,
    checkpoint: str | Path | None,
    *,
    resumed: bool,
) -> None:
    run.begin(recipe, resumed=resumed)
    planned.save(run)
    (warn_of_another_start if resumed else record_start)(run, checkpoint)
    hardware = {"device": world.device_name, "ranks": world.size, "torch": torch.__version__}
    write_json(hardware, run.root / "plan" / "hardware.json")


def _record_left_out(run: RunFolder, recipe: Recipe, step: int) -> None:
    """Write down which samples the user leaves out from here on, where that changes."""
    known = [line for line in run.left_out if line["step"] < step]
    ids = sorted(recipe.data.skip_ids)
    run.left_out.replace(known)
    if ids != (known[-1]["ids"] if known else []):
        run.left_out.append({"step": step, "ids": ids})
