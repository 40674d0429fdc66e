"""From a recipe to a trainer: model, processor, data, plan."""

import logging
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from smolvlm2.data.manifest import Manifest
from smolvlm2.errors import CheckpointError, ConfigError, DataNotFoundError, ResumeError
from smolvlm2.loading.loader import PackReader
from smolvlm2.loading.sample_table import measure_source, open_sources, source_table
from smolvlm2.model.components import component_shapes, load_components
from smolvlm2.model.config import SmolVLMConfig
from smolvlm2.model.hub import write_json
from smolvlm2.model.initialisation import empty_model
from smolvlm2.model.smolvlm import SmolVLM
from smolvlm2.plan.order import Order
from smolvlm2.plan.packs import capacity_for
from smolvlm2.plan.plan import Plan, packs_for
from smolvlm2.plan.ranks import check_ranks, useful_bound
from smolvlm2.plan.samples import SourceTable
from smolvlm2.processing.processor import Processor
from smolvlm2.processing.tokenizer import Tokenizer, extend_for_images
from smolvlm2.training.distributed import World, connect
from smolvlm2.training.launch import Launch
from smolvlm2.training.loop import Hook, Trainer
from smolvlm2.training.memory import estimate_memory
from smolvlm2.training.parallelize import Layout, choose_layout, device_memory, parallelize
from smolvlm2.training.passed_over import Range, record_range
from smolvlm2.training.recipe import Recipe
from smolvlm2.training.run_folder import RunFolder
from smolvlm2.training.signals import StopRequest

logger = logging.getLogger(__name__)

SIZING_SAMPLES = 8192
"""Samples of the order from which means are taken: the first window of the default size."""


@dataclass(kw_only=True)
class PlannedData:
    """The data of a stage, planned."""

    plan: Plan
    """Which packs make which step."""
    tables: list[SourceTable]
    """Of each entry of the mixture."""
    manifests: list[Manifest]
    """Likewise."""
    samples_per_step: float
    """Mean samples of a step."""
    facts: dict[str, Any]
    """What the plan resolved to, for people and for ``plan/plan.json``."""


def data_root(recipe: Recipe) -> Path:
    """The data root: ``data.root``, or DATA_DIR where the recipe keeps the default."""
    if recipe.data.root == "data" and os.environ.get("DATA_DIR"):
        return Path(os.environ["DATA_DIR"])
    return Path(recipe.data.root)


def prepared_folder(recipe: Recipe) -> Path:
    """Where the prepared sources lie.

    Raises:
        DataNotFoundError: Nowhere; names the command.
    """
    prepared = data_root(recipe) / "prepared"
    if not prepared.is_dir():
        raise DataNotFoundError(
            f"{prepared}: no such folder; prepare the data first (smolvlm2 prepare), or name the "
            f"data root with DATA_DIR or data.root=..."
        )
    return prepared


def plan_data(recipe: Recipe, processor: Processor, *, context: int) -> PlannedData:
    """Open the mixture's sources and plan them.

    Args:
        recipe: Of the stage.
        processor: Decides tiles and tokens of every sample.
        context: The model's context, tokens.

    Raises:
        ConfigError: The recipe has no mixture.
        DataNotFoundError: A source is not prepared; names the command.
        PlanError: The mixture cannot be sampled, or a sample is larger than a pack.
    """
    mixture = recipe.data.mixture
    if mixture is None:
        raise ConfigError(
            "data.mixture is not set; give a recipe that extends a file of configs/mixtures/"
        )
    prepared = prepared_folder(recipe)
    sources = open_sources(mixture, prepared, processor.tokenizer.key)
    max_tokens = min(recipe.limits.max_tokens or context, context)
    lengths = processor.length_model()
    measured = {
        name: measure_source(manifest, lengths, max_tokens=max_tokens)
        for name, manifest in sources.items()
    }
    tables = [
        source_table(entry, sources[entry.source], measured[entry.source], recipe.limits)
        for entry in mixture.entries
    ]
    seed, weights = recipe.training.seed, mixture.shares
    draw = Order(tables, weights, seed=seed).samples(0, SIZING_SAMPLES)
    tokens, tiles = draw.column(tables, "tokens"), draw.column(tables, "tiles")
    capacity = capacity_for(
        recipe.pack,
        samples_per_pack=recipe.training.per_device_train_batch_size,
        tokens=np.concatenate([tokens, [table.tokens.max() for table in tables]]),
        tiles=np.concatenate([tiles, [table.tiles.max() for table in tables]]),
    )
    plan = Plan(
        tables,
        weights,
        capacity=capacity,
        packs_per_step=1,
        window=recipe.pack.window,
        seed=seed,
    )
    per_pack = recipe.pack.window / len(plan.packs_of_window(0))
    plan.packs_per_step = packs_for(recipe.training.samples_per_step, per_pack)
    facts = {
        "digest": plan.digest(),
        "pack": {"tokens": capacity.tokens, "tiles": capacity.tiles},
        "samples_per_pack": round(per_pack, 2),
        "packs_per_step": plan.packs_per_step,
        "samples_per_step": round(per_pack * plan.packs_per_step, 1),
        "mean_tokens": round(float(tokens.mean()), 1),
        "mean_tiles": round(float(tiles.mean()), 2),
        "sources": {
            table.name: {
                "samples": len(table),
                "share": round(share, 4),
                "epochs": round(
                    share * per_pack * plan.packs_per_step * recipe.training.max_steps / len(table),
                    2,
                ),
                "excluded": table.excluded,
                "cut": table.cut,
            }
            for table, share in zip(tables, weights, strict=True)
        },
    }
    return PlannedData(
        plan=plan,
        tables=tables,
        manifests=[sources[entry.source] for entry in mixture.entries],
        samples_per_step=per_pack * plan.packs_per_step,
        facts=facts,
    )


def starting_config(recipe: Recipe, checkpoint: str | Path | None) -> SmolVLMConfig:
    """Shapes of the model that a stage starts from; reads no weights."""
    if checkpoint is None:
        return component_shapes(recipe.model)
    from smolvlm2.model.hub import read_json, resolve_checkpoint

    folder = resolve_checkpoint(checkpoint, patterns=("*.json",))
    path = folder / "config.json"
    return SmolVLMConfig.from_hf(read_json(path), where=str(path))


def starting_tokenizer(recipe: Recipe, checkpoint: str | Path | None) -> Tokenizer:
    """The tokenizer of a stage: the checkpoint's, or the text decoder's with the image tokens."""
    if checkpoint is not None:
        return Tokenizer.from_pretrained(checkpoint)
    return extend_for_images(
        recipe.model.text_decoder.name,
        model_max_length=recipe.model.text_decoder.max_position_embeddings,
    )


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
    skip_steps: Range | None = None,
    device: str | None = None,
    launch: Launch | None = None,
    hook: Hook | None = None,
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
        skip_steps: Steps of the run that goes on whose data are passed over.
        device: Where to train; None: CUDA where there is one, else the CPU.
        launch: How this process was started; None: alone.
        hook: Evaluation after each checkpoint.
        progress: Called on rank 0 with every line of the log.
        stop: Asked before every step whether to save and end.

    Raises:
        ResumeError: The folder cannot take this run, or holds one with another recipe or data.
        ConfigError: The run would start from the folder that it writes to, or fewer ranks are here
            than promised.
        CheckpointError: Tokenizer and model do not belong together.
        PlanError: There are more ranks than packs in a step.
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
        lambda: _look_at(run, recipe, checkpoint, restart=restart, resume=resume, skip=skip_steps),
        at="start",
    )
    config, processor, data, model = world.together(
        lambda: _parts(recipe, checkpoint, world, resumed=resumed), at="start"
    )
    # Only now that nothing can be missing any more does an earlier run go.
    world.lead(lambda: _begin(run, recipe, data, resumed=resumed), at="start")
    layout = _choose_layout(recipe, config, data.plan, world)
    mesh = parallelize(model, world, recipe.training, recipe.parallel, layout)
    reader = PackReader(
        tables=data.tables,
        manifests=data.manifests,
        processor=processor,
        capacity=data.plan.capacity,
        image_token_id=config.image_token_id,
        pad_token_id=config.pad_token_id,
        loss_weight=recipe.loss.weight,
    )
    trainer = Trainer(
        recipe=recipe,
        run=run,
        world=world,
        model=model,
        mesh=mesh,
        plan=data.plan,
        reader=reader,
        hook=hook,
        progress=progress,
        stop=stop or StopRequest(),
    )
    if resumed:
        trainer.resume(resume)
        if skip_steps is not None:
            step = trainer.state.step
            world.lead(lambda: record_range(run, skip_steps, step=step), at="start")
    return trainer


def _look_at(
    run: RunFolder,
    recipe: Recipe,
    checkpoint: str | Path | None,
    *,
    restart: bool,
    resume: int | None,
    skip: Range | None,
) -> bool:
    """Whether an earlier run goes on; refuses what contradicts the folder."""
    resumed = run.check(recipe, restart=restart)
    _check_apart(run, checkpoint, restart=restart)
    if not resumed and resume is not None:
        raise ResumeError(f"{run.root}: no run to go on from step {resume}; leave out --resume")
    if not resumed and skip is not None:
        raise ResumeError(
            f"{run.root}: no run to go on with --skip-steps {skip[0]}:{skip[1]}; data are passed "
            f"over in a run that has a checkpoint before them"
        )
    return resumed


def _parts(
    recipe: Recipe, checkpoint: str | Path | None, world: World, *, resumed: bool
) -> tuple[SmolVLMConfig, Processor, PlannedData, SmolVLM]:
    """What a stage is made of, on every rank alike."""
    config = starting_config(recipe, checkpoint)
    tokenizer = starting_tokenizer(recipe, checkpoint)
    if tokenizer.vocab_size != config.text.vocab_size:
        raise CheckpointError(
            f"the tokenizer has {tokenizer.vocab_size} tokens and the model "
            f"{config.text.vocab_size} rows; they do not belong together"
        )
    processor = Processor.for_model(config, tokenizer, image=recipe.image, video=recipe.video)
    data = plan_data(recipe, processor, context=config.text.max_position_embeddings)
    packs = data.plan.packs_per_step
    warning = check_ranks(packs, world.size)
    if warning is not None:
        logger.warning(warning)
    if world.size > 1:
        share = useful_bound(packs, world.size)
        logger.info(
            "%d packs a step on %d ranks: %.0f %% useful at most", packs, world.size, 100 * share
        )
    if resumed:  # every weight comes from the run's own checkpoint
        model = empty_model(config, dtype=torch.float32, device=world.device)
    elif checkpoint is None:
        model = load_components(recipe.model, seed=recipe.training.seed)
    else:
        model = SmolVLM.from_pretrained(checkpoint, dtype=torch.float32)
    return config, processor, data, model.to(world.device)


def _begin(run: RunFolder, recipe: Recipe, data: PlannedData, *, resumed: bool) -> None:
    run.begin(recipe, resumed=resumed)
    write_json(data.facts, run.root / "plan" / "plan.json")


def _choose_layout(recipe: Recipe, config: SmolVLMConfig, plan: Plan, world: World) -> Layout:
    training = recipe.training
    start = training.unfreeze_vision_after_steps
    trains = not training.freeze_vision_encoder or (
        start is not None and start < training.max_steps
    )
    layout = choose_layout(
        recipe.parallel,
        ranks=world.size,
        ranks_a_machine=world.local_size,
        memory=device_memory(world.device),
        estimate=estimate_memory(config, plan.capacity, training, vision_trains=trains),
    )
    if world.size > 1:
        logger.info("%d ranks on %s, %s", world.size, world.device.type, layout)
    return layout
