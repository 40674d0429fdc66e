"""What a run would do, printed before it is started; reads neither weights nor media."""

import itertools
from dataclasses import replace
from pathlib import Path

from smolvlm2.config import to_yaml
from smolvlm2.errors import DataNotFoundError, SmolVLMError
from smolvlm2.model.config import SmolVLMConfig
from smolvlm2.plan.packs import Capacity
from smolvlm2.processing.processor import Processor
from smolvlm2.training.estimate import typical_load
from smolvlm2.training.freezing import frozen_parts
from smolvlm2.training.memory import (
    ADAPTERS_NOTE,
    GIB,
    Parameters,
    count_trained,
    estimate_memory,
)
from smolvlm2.training.model_cost import cost_of
from smolvlm2.training.planning import plan_data, prepared_folder
from smolvlm2.training.recipe import Recipe
from smolvlm2.training.starting_point import starting_config, starting_tokenizer

TYPICAL_TOKENS, TYPICAL_TILES = 1072, 10.83
"""Mean of a sample of the assumed mixture (image 34 %, video 33 %, text 20 %, several images 12 %)
under the published recipe; used while there are no prepared data to measure."""


def describe(recipe: Recipe, checkpoint: str | Path | None = None) -> str:
    """Merged recipe, derived numbers, plan, parameters by part, memory and cost, as text.

    Args:
        recipe: Of the stage.
        checkpoint: What the stage would start from; None: the recipe's components.
    """
    config = starting_config(recipe, checkpoint)
    counts, trained = count_trained(config, recipe.training.adapters)
    capacity, packs, ends, plan_lines = _plan(recipe, checkpoint, config)
    written = to_yaml(recipe).rstrip()
    if ends is not None and ends < recipe.training.max_steps:
        # As a run does: rates and phases follow the steps that there are.
        recipe = replace(recipe, training=replace(recipe.training, max_steps=ends))
    frozen_by_phase = {
        name: frozen_parts(first, recipe.training) for name, first, _ in phases(recipe)
    }
    lines = ["# merged recipe", written, "", "# derived"]
    lines += [f"{name:28} {value}" for name, value in _derived(recipe, config).items()]
    lines += ["", "# plan", *plan_lines, "", "# parameters"]
    lines += _parameter_table(counts, trained, frozen_by_phase)
    lines += ["", "# memory on one device, GiB, estimated from shapes (unsharded)"]
    lines.append(f"{'phase':28} {'states':>10} {'activations':>12} {'total':>8}")
    for name, frozen in frozen_by_phase.items():
        estimate = estimate_memory(
            config,
            capacity,
            recipe.training,
            vision_trains="vision_encoder" not in frozen,
            tile_chunk=recipe.encoder.tile_chunk,
        )
        lines.append(
            f"{name:28} {estimate.states / GIB:10.2f} {estimate.activations / GIB:12.2f} "
            f"{estimate.total / GIB:8.2f}"
        )
    if recipe.training.adapters is not None:
        lines.append(ADAPTERS_NOTE)
    return "\n".join([*lines, "", *_cost(recipe, config, capacity, packs)])


def _cost(recipe: Recipe, config: SmolVLMConfig, capacity: Capacity, packs: float) -> list[str]:
    """Useful FLOPs of full packs, nothing recomputed."""
    load, cost = typical_load(capacity), cost_of(config)
    lines = [
        f"# cost with full packs, {packs:g} a step; hours on a named GPU: smolvlm2 estimate",
        f"{'phase':28} {'TFLOP a step':>12} {'EFLOP in all':>12}",
    ]
    for name, first, end in phases(recipe):
        frozen = "vision_encoder" in frozen_parts(first, recipe.training)
        step = packs * cost.useful_flops(
            load.tiles, load.tokens, load.squared, load.supervised, frozen=frozen
        )
        lines.append(f"{name:28} {step / 1e12:12.4g} {step * (end - first) / 1e18:12.4g}")
    return lines


def _derived(recipe: Recipe, config: SmolVLMConfig) -> dict[str, str]:
    training, vision = recipe.training, config.vision
    batch, accumulation = (
        training.per_device_train_batch_size,
        training.gradient_accumulation_steps,
    )
    return {
        "patches per tile": f"{vision.num_patches} ({vision.patches_per_side} a side)",
        "visual tokens per tile": str(config.tokens_per_tile),
        "largest image": f"{recipe.image.longest_edge} px, "
        f"{-(-recipe.image.longest_edge // vision.image_size)} tiles a side",
        "context": f"{config.text.max_position_embeddings} tokens",
        "RoPE base": f"{config.text.rope_theta:g}",
        "samples per step": f"{training.samples_per_step} = {batch} x {accumulation} x "
        f"{training.reference_devices} devices",
        "samples in all": f"{training.samples_per_step * training.max_steps:,}",
        "warm-up": f"{recipe.schedule.warmup(training.max_steps)} steps",
    }


def phases(recipe: Recipe) -> list[tuple[str, int, int]]:
    """Name, first step and end of each phase: with the vision encoder frozen, and without."""
    training = recipe.training
    start, end = training.unfreeze_vision_after_steps, training.max_steps
    bounds = [0, end]
    if training.freeze_vision_encoder and start is not None and 0 < start < end:
        bounds = [0, start, end]
    return [
        (f"steps {first}-{last - 1}", first, last) for first, last in itertools.pairwise(bounds)
    ]


def planned_capacity(
    recipe: Recipe, checkpoint: str | Path | None, config: SmolVLMConfig
) -> tuple[Capacity, str]:
    """Capacity of a pack, and whether it comes from the plan or is assumed."""
    capacity, _, _, lines = _plan(recipe, checkpoint, config)
    assumed = lines[0].startswith(("data not prepared", "no plan"))
    return capacity, "assumed, no plan" if assumed else "as planned"


def _parameter_table(
    counts: Parameters, trained: Parameters, by_phase: dict[str, frozenset[str]]
) -> list[str]:
    lines = [f"{'part':16} {'parameters':>13}  " + "  ".join(f"{name:>20}" for name in by_phase)]
    for part, number in vars(counts).items():
        # With adapters a part trains in part.
        some = getattr(trained, part)
        trains = "trainable" if some == number else f"{some:,} train"
        states = ("frozen" if part in frozen else trains for frozen in by_phase.values())
        lines.append(f"{part:16} {number:13,}  " + "  ".join(f"{state:>20}" for state in states))
    trainable = (
        trained.total - sum(getattr(trained, part) for part in frozen)
        for frozen in by_phase.values()
    )
    lines.append(f"{'total':16} {counts.total:13,}  " + "  ".join(f"{n:20,}" for n in trainable))
    return lines


def _plan(
    recipe: Recipe, checkpoint: str | Path | None, config: SmolVLMConfig
) -> tuple[Capacity, float, int | None, list[str]]:
    """Capacity, packs a step, the step at which sources end, and the plan's numbers; without
    data assumptions that say so."""
    try:
        prepared_folder(recipe)  # before a tokenizer is looked for on the hub
        tokenizer = starting_tokenizer(recipe, checkpoint)
        processor = Processor.for_model(config, tokenizer, image=recipe.image, video=recipe.video)
        data = plan_data(
            recipe, processor, context=config.text.max_position_embeddings, config=config
        )
    except SmolVLMError as error:
        batch = recipe.training.per_device_train_batch_size
        capacity = Capacity(
            tokens=recipe.pack.tokens or round(batch * TYPICAL_TOKENS),
            tiles=recipe.pack.tiles or round(batch * TYPICAL_TILES),
            documents=recipe.pack.documents,
        )
        reason = "data not prepared" if isinstance(error, DataNotFoundError) else "no plan"
        return (
            capacity,
            recipe.training.samples_per_step / batch,
            None,
            [
                f"{reason}: {error}",
                f"assumed: {TYPICAL_TOKENS} tokens and {TYPICAL_TILES} tiles a sample on average, "
                f"packs of {capacity.tokens} tokens and {capacity.tiles} tiles",
            ],
        )
    lines = [f"{name:28} {value}" for name, value in data.facts.items() if name != "sources"]
    for name, source in data.facts["sources"].items():
        lines.append(
            f"{name:40} {source['samples']:9,} samples  share {source['share']:.3f}  "
            f"epochs {source['epochs']:.2f}" + (" (above 4)" if source["epochs"] > 4 else "")
        )
    return data.plan.capacity, data.plan.packs_per_step, data.steps, lines
