"""From a recipe to a trainer: model, processor, data, plan."""

import logging
import socket
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch.distributed.device_mesh import DeviceMesh

from smolvlm2.errors import CheckpointError, ConfigError, ResumeError
from smolvlm2.loading.reader import PackReader
from smolvlm2.model.components import load_components
from smolvlm2.model.config import SmolVLMConfig
from smolvlm2.model.hub import write_json
from smolvlm2.model.initialisation import empty_model
from smolvlm2.model.smolvlm import SmolVLM
from smolvlm2.plan.packs import Capacity
from smolvlm2.plan.plan import Position
from smolvlm2.plan.ranks import check_ranks, useful_bound
from smolvlm2.processing.processor import Processor
from smolvlm2.training.adapters import attach_adapters
from smolvlm2.training.checkpoints import find_checkpoint
from smolvlm2.training.checkups import Hook, MakeHook
from smolvlm2.training.distributed import World, connect, shared
from smolvlm2.training.launch import Launch
from smolvlm2.training.loop import Trainer
from smolvlm2.training.memory import Checkpointing, choose_checkpointing, estimate_memory
from smolvlm2.training.parallelize import (
    FREE_SHARE,
    Layout,
    choose_layout,
    device_memory,
    parallelize,
)
from smolvlm2.training.passed_over import Range, ranges_of, record_range
from smolvlm2.training.randomness import PackRandomness, add_embedding_noise
from smolvlm2.training.recipe import Recipe
from smolvlm2.training.run_folder import RunFolder
from smolvlm2.training.segments import PlannedRun, plan_run
from smolvlm2.training.shared_work import SharedWork
from smolvlm2.training.signals import StopRequest
from smolvlm2.training.starting_point import starting_config, starting_tokenizer
from smolvlm2.training.validation import HeldOut, plan_validation
from smolvlm2.training.writers import check_writers

logger = logging.getLogger(__name__)


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
    if recipe.training.threads is not None:
        torch.set_num_threads(recipe.training.threads)
    world = connect(
        launch or Launch(),
        device,
        timeout=recipe.parallel.timeout_seconds,
        start_timeout=recipe.parallel.start_timeout_seconds,
    )
    run = RunFolder(output)
    resumed = world.lead(
        lambda: _look_at(
            run,
            recipe,
            checkpoint,
            restart=restart,
            resume=resume,
            replan=replan,
            skip=skip_steps,
        ),
        at="start",
    )
    found = find_checkpoint(run, world, resume) if resumed else None
    position = found[1].position if found else None
    config, processor, planned, model = world.together(
        lambda: _parts(run, recipe, checkpoint, world, position=position, replan=replan),
        at="start",
    )
    _check_alike(planned, world)
    work = SharedWork(world=world)
    held_out, hook = world.together(
        lambda: _watchers(recipe, config, processor, planned, work, make_hook), at="start"
    )
    # Only now that nothing can be missing any more does an earlier run go.
    world.lead(lambda: _begin(run, recipe, planned, world, resumed=resumed), at="start")
    randomness = PackRandomness(seed=recipe.training.seed)
    mesh = _lay_out(model, recipe, config, planned.plan.capacity, world, randomness)
    trainer = Trainer(
        recipe=recipe,
        run=run,
        world=world,
        model=model,
        mesh=mesh,
        planned=planned,
        reader=_pack_reader(recipe, config, processor, planned),
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


def _settle(trainer: Trainer, skip_steps: Range | None) -> None:
    """Record what the user leaves out from here on, and count the steps that there are."""
    run, world, recipe, planned = trainer.run, trainer.world, trainer.recipe, trainer.planned
    step = trainer.state.step
    world.lead(lambda: _record_left_out(run, recipe, step), at="start")
    if skip_steps is not None:
        world.lead(lambda: record_range(run, skip_steps, step=step), at="start")
    if planned.steps is not None:
        passed = world.lead(lambda: ranges_of(run), at="start")
        steps = planned.steps - sum(end - first for first, end in passed)
        if steps < recipe.training.max_steps:
            # Learning rates follow the steps that there are; the saved recipe stays as it was.
            trainer.recipe = replace(recipe, training=replace(recipe.training, max_steps=steps))


def _lay_out(
    model: SmolVLM,
    recipe: Recipe,
    config: SmolVLMConfig,
    capacity: Capacity,
    world: World,
    randomness: PackRandomness,
) -> DeviceMesh | None:
    """Add what the recipe trains beside the model's weights, and spread it over the ranks."""
    if recipe.training.adapters is not None:
        attach_adapters(model, recipe.training.adapters, randomness)
    if recipe.training.neftune_alpha:
        add_embedding_noise(model, recipe.training.neftune_alpha, randomness)
    layout, checkpointing = choose_memory(recipe, config, capacity, world)
    return parallelize(
        model,
        world,
        recipe.training,
        recipe.parallel,
        layout,
        checkpointing=checkpointing,
        tile_chunk=recipe.encoder.tile_chunk,
    )


def _pack_reader(
    recipe: Recipe, config: SmolVLMConfig, processor: Processor, planned: PlannedRun
) -> PackReader:
    return PackReader(
        tables=planned.plan.tables,
        manifests=planned.manifests,
        processor=processor,
        capacity=planned.plan.capacity,
        image_token_id=config.image_token_id,
        pad_token_id=config.pad_token_id,
        loss_weight=recipe.loss.weight,
    )


def _look_at(
    run: RunFolder,
    recipe: Recipe,
    checkpoint: str | Path | None,
    *,
    restart: bool,
    resume: int | None,
    replan: bool,
    skip: Range | None,
) -> bool:
    """Whether an earlier run goes on; refuses what contradicts the folder."""
    check_writers(recipe.logging.writers)
    resumed = run.check(recipe, restart=restart, replan=replan)
    _check_apart(run, checkpoint, restart=restart)
    if not resumed and resume is not None:
        raise ResumeError(f"{run.root}: no run to go on from step {resume}; leave out --resume")
    if not resumed and replan:
        raise ResumeError(f"{run.root}: no run to plan anew; leave out --replan")
    if not resumed and skip is not None:
        raise ResumeError(
            f"{run.root}: no run to go on with --skip-steps {skip[0]}:{skip[1]}; data are passed "
            f"over in a run that has a checkpoint before them"
        )
    return resumed


def _parts(
    run: RunFolder,
    recipe: Recipe,
    checkpoint: str | Path | None,
    world: World,
    *,
    position: Position | None,
    replan: bool,
) -> tuple[SmolVLMConfig, Processor, PlannedRun, SmolVLM]:
    """What a stage is made of, on every rank alike."""
    config = starting_config(recipe, checkpoint)
    tokenizer = starting_tokenizer(recipe, checkpoint)
    if tokenizer.vocab_size != config.text.vocab_size:
        raise CheckpointError(
            f"the tokenizer has {tokenizer.vocab_size} tokens and the model "
            f"{config.text.vocab_size} rows; they do not belong together"
        )
    processor = Processor.for_model(config, tokenizer, image=recipe.image, video=recipe.video)
    planned = plan_run(run, recipe, processor, config, position=position, replan=replan)
    packs = min(segment.plan.packs_per_step for segment in planned.plan.segments)
    warning = check_ranks(packs, world.size)
    if warning is not None:
        logger.warning(warning)
    if world.size > 1:
        share = useful_bound(packs, world.size)
        logger.info(
            "%d packs a step on %d ranks: %.0f %% useful at most", packs, world.size, 100 * share
        )
    if position is not None:  # every weight comes from the run's own checkpoint
        model = empty_model(config, dtype=torch.float32, device=world.device)
    elif checkpoint is None:
        model = load_components(recipe.model, seed=recipe.training.seed)
    else:
        model = SmolVLM.from_pretrained(checkpoint, dtype=torch.float32)
    return config, processor, planned, model.to(world.device)


def _check_alike(planned: PlannedRun, world: World) -> None:
    """Refuse ranks that would train on other packs than rank 0 takes them to have.

    Raises:
        ConfigError: Names them and their machines.
    """
    own = [record.digest for record in planned.records], socket.gethostname()
    told = world.gather(own, at="start")
    others = [
        f"rank {rank} on {machine}"
        for rank, (digests, machine) in enumerate(told)
        if digests != told[0][0]
    ]
    if others:
        raise shared(
            ConfigError(
                f"{', '.join(others)}: the prepared data or the settings there make another plan "
                f"than those of rank 0 on {told[0][1]}; let DATA_DIR or data.root be the same "
                f"files on all machines, and start all ranks with the same arguments"
            )
        )


def _watchers(
    recipe: Recipe,
    config: SmolVLMConfig,
    processor: Processor,
    planned: PlannedRun,
    work: SharedWork,
    make_hook: MakeHook | None,
) -> tuple[HeldOut | None, Hook | None]:
    """What looks at the model on the way; what it misses is said before training starts."""
    held_out = plan_validation(recipe, processor, config, planned.plan, ranks=work.size)
    if make_hook is None:
        if recipe.evaluation.benchmarks:
            logger.warning("evaluation.benchmarks has no effect: nothing here can evaluate")
        return held_out, None
    return held_out, make_hook(recipe, processor, work)


def _begin(
    run: RunFolder, recipe: Recipe, planned: PlannedRun, world: World, *, resumed: bool
) -> None:
    run.begin(recipe, resumed=resumed)
    planned.save(run)
    write_json(planned.facts, run.root / "plan" / "plan.json")
    hardware = {"device": world.device_name, "ranks": world.size, "torch": torch.__version__}
    write_json(hardware, run.root / "plan" / "hardware.json")


def _record_left_out(run: RunFolder, recipe: Recipe, step: int) -> None:
    """Write down which samples the user leaves out from here on, where that changes."""
    known = [line for line in run.left_out if line["step"] < step]
    ids = sorted(recipe.data.skip_ids)
    run.left_out.replace(known)
    if ids != (known[-1]["ids"] if known else []):
        run.left_out.append({"step": step, "ids": ids})


def choose_memory(
    recipe: Recipe, config: SmolVLMConfig, capacity: Capacity, world: World
) -> tuple[Layout, Checkpointing]:
    """How the model lies on the ranks, and which blocks are recomputed. All ranks call it."""
    training, chunk = recipe.training, recipe.encoder.tile_chunk
    start = training.unfreeze_vision_after_steps
    trains = not training.freeze_vision_encoder or (
        start is not None and start < training.max_steps
    )
    # Of the smallest device: ranks that chose differently would wait for each other for ever.
    sizes = world.gather(device_memory(world.device), at="start")
    memory = min((size for size in sizes if size is not None), default=None)
    checkpointing = choose_checkpointing(
        config,
        capacity,
        training,
        vision_trains=trains,
        memory=None if memory is None else FREE_SHARE * memory,
        tile_chunk=chunk,
    )
    if training.checkpointing == "auto":
        logger.info("training.activation_checkpointing: auto takes %r", checkpointing)
    layout = choose_layout(
        recipe.parallel,
        ranks=world.size,
        ranks_a_machine=world.local_size,
        memory=memory,
        estimate=estimate_memory(
            config,
            capacity,
            training,
            vision_trains=trains,
            checkpointing=checkpointing,
            tile_chunk=chunk,
        ),
    )
    if world.size > 1:
        logger.info("%d ranks on %s, %s", world.size, world.device.type, layout)
    return layout, checkpointing
