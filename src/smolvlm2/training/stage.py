"""From a recipe to a trainer: model, processor, data, plan."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from smolvlm2.errors import CheckpointError, ConfigError
from smolvlm2.loading.reader import PackReader
from smolvlm2.model.component_shapes import component_shapes
from smolvlm2.model.components import load_components
from smolvlm2.model.config import SmolVLMConfig
from smolvlm2.model.hub import write_json
from smolvlm2.model.smolvlm import SmolVLM
from smolvlm2.processing.processor import Processor
from smolvlm2.processing.tokenizer import Tokenizer, extend_for_images
from smolvlm2.training.loop import Hook, Trainer
from smolvlm2.training.parallelize import checkpoint_activations, choose_device
from smolvlm2.training.planning import plan_data
from smolvlm2.training.recipe import Recipe
from smolvlm2.training.run_folder import RunFolder


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
    device: str | None = None,
    hook: Hook | None = None,
    progress: Callable[[dict[str, Any]], None] | None = None,
) -> Trainer:
    """Everything that a stage needs, at its first step or where it was left.

    Args:
        recipe: Of the stage.
        output: The run folder; an unfinished run of the same recipe in it goes on.
        checkpoint: What to start from; None: the recipe's components.
        restart: Throw an earlier run in ``output`` away.
        device: Where to train; None: CUDA where there is one, else the CPU.
        hook: Evaluation after each checkpoint.
        progress: Called with every line of the log.

    Raises:
        ResumeError: The folder cannot take this run, or holds one with another recipe or data.
        ConfigError: The run would start from the folder that it writes to.
        CheckpointError: Tokenizer and model do not belong together.
    """
    if recipe.training.threads is not None:
        torch.set_num_threads(recipe.training.threads)
    run = RunFolder(output)
    resumed = run.check(recipe, restart=restart)
    _check_apart(run, checkpoint, restart=restart)
    config = starting_config(recipe, checkpoint)
    tokenizer = starting_tokenizer(recipe, checkpoint)
    if tokenizer.vocab_size != config.text.vocab_size:
        raise CheckpointError(
            f"the tokenizer has {tokenizer.vocab_size} tokens and the model "
            f"{config.text.vocab_size} rows; they do not belong together"
        )
    processor = Processor.for_model(config, tokenizer, image=recipe.image, video=recipe.video)
    data = plan_data(recipe, processor, context=config.text.max_position_embeddings, config=config)
    if resumed:  # every weight comes from the run's own checkpoint
        model = SmolVLM.from_random(config, seed=recipe.training.seed)
    elif checkpoint is None:
        model = load_components(recipe.model, seed=recipe.training.seed)
    else:
        model = SmolVLM.from_pretrained(checkpoint, dtype=torch.float32)
    model = model.to(choose_device(device))
    # Only now that nothing can be missing any more does an earlier run go.
    run.begin(recipe, resumed=resumed)
    write_json(data.facts, run.root / "plan" / "plan.json")
    if recipe.training.gradient_checkpointing:
        checkpoint_activations(model)
    reader = PackReader(
        tables=data.tables,
        manifests=data.manifests,
        processor=processor,
        capacity=data.plan.capacity,
        image_token_id=config.image_token_id,
        pad_token_id=config.pad_token_id,
        loss_weight=recipe.loss.weight,
    )
    if data.steps is not None and data.steps < recipe.training.max_steps:
        # Learning rates follow the steps that there are; the saved recipe stays as it was given.
        recipe = replace(recipe, training=replace(recipe.training, max_steps=data.steps))
    trainer = Trainer(
        recipe=recipe,
        run=run,
        model=model,
        plan=data.plan,
        reader=reader,
        hook=hook,
        progress=progress,
    )
    if resumed:
        trainer.resume()
    return trainer
