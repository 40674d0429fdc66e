"""What a run would do, printed before it is started; reads neither weights nor media."""

from pathlib import Path

from smolvlm2.config import to_yaml
from smolvlm2.errors import DataNotFoundError, SmolVLMError
from smolvlm2.model.config import SmolVLMConfig
from smolvlm2.plan.packs import Capacity
from smolvlm2.processing.processor import Processor
from smolvlm2.training.freezing import frozen_parts
from smolvlm2.training.memory import GIB, Parameters, count_parameters, estimate_memory
from smolvlm2.training.planning import plan_data, prepared_folder
from smolvlm2.training.recipe import Recipe
from smolvlm2.training.starting_point import starting_config, starting_tokenizer

TYPICAL_TOKENS, TYPICAL_TILES = 1072, 10.83
"""Mean of a sample of the assumed mixture (image 34 %, video 33 %, text 20 %, several images 12 %)
under the published recipe; used while there are no prepared data to measure."""


def describe(recipe: Recipe, checkpoint: str | Path | None = None) -> str:
    """Merged recipe, derived numbers, plan, parameters by part and memory, as text.

    Args:
        recipe: Of the stage.
        checkpoint: What the stage would start from; None: the recipe's components.
    """
    config = starting_config(recipe, checkpoint)
    counts = count_parameters(config)
    capacity, plan_lines = _plan(recipe, checkpoint, config)
    phases = _phases(recipe)
    lines = ["# merged recipe", to_yaml(recipe).rstrip(), "", "# derived"]
    lines += [f"{name:28} {value}" for name, value in _derived(recipe, config).items()]
    lines += ["", "# plan", *plan_lines, "", "# parameters"]
    lines += _parameter_table(counts, phases)
    lines += ["", "# memory on one device, GiB, estimated from shapes (unsharded)"]
    lines.append(f"{'phase':28} {'states':>10} {'activations':>12} {'total':>8}")
    for name, frozen in phases.items():
        estimate = estimate_memory(
            config, capacity, recipe.training, vision_trains="vision_encoder" not in frozen
        )
        lines.append(
            f"{name:28} {estimate.states / GIB:10.2f} {estimate.activations / GIB:12.2f} "
            f"{estimate.total / GIB:8.2f}"
        )
    return "\n".join(lines)


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


def phases(recipe: Recipe) -> dict[str, tuple[int, frozenset[str]]]:
    """First step and frozen parts of each phase, named by its steps."""
    return {name: (int(name[6:].split("-")[0]), frozen) for name, frozen in _phases(recipe).items()}


def planned_capacity(
    recipe: Recipe, checkpoint: str | Path | None, config: SmolVLMConfig
) -> tuple[Capacity, str]:
    """Capacity of a pack, and whether it comes from the plan or is assumed."""
    capacity, lines = _plan(recipe, checkpoint, config)
    assumed = lines[0].startswith(("data not prepared", "no plan"))
    return capacity, "assumed, no plan" if assumed else "as planned"


def _phases(recipe: Recipe) -> dict[str, frozenset[str]]:
    """Frozen parts of each phase, named by its steps."""
    training = recipe.training
    start = training.unfreeze_vision_after_steps
    if not training.freeze_vision_encoder or start is None or start >= training.max_steps:
        return {f"steps 0-{training.max_steps - 1}": frozen_parts(0, training)}
    return {
        f"steps 0-{start - 1}": frozen_parts(0, training),
        f"steps {start}-{training.max_steps - 1}": frozen_parts(start, training),
    }


def _parameter_table(counts: Parameters, phases: dict[str, frozenset[str]]) -> list[str]:
    lines = [f"{'part':16} {'parameters':>13}  " + "  ".join(f"{name:>20}" for name in phases)]
    for part, number in vars(counts).items():
        states = ("frozen" if part in frozen else "trainable" for frozen in phases.values())
        lines.append(f"{part:16} {number:13,}  " + "  ".join(f"{state:>20}" for state in states))
    trainable = (
        counts.total - sum(getattr(counts, part) for part in frozen) for frozen in phases.values()
    )
    lines.append(f"{'total':16} {counts.total:13,}  " + "  ".join(f"{n:20,}" for n in trainable))
    return lines


def _plan(
    recipe: Recipe, checkpoint: str | Path | None, config: SmolVLMConfig
) -> tuple[Capacity, list[str]]:
    """The plan's numbers where the data are prepared, else assumptions that say so."""
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
        return capacity, [
            f"{reason}: {error}",
            f"assumed: {TYPICAL_TOKENS} tokens and {TYPICAL_TILES} tiles a sample on average, "
            f"packs of {capacity.tokens} tokens and {capacity.tiles} tiles",
        ]
    lines = [f"{name:28} {value}" for name, value in data.facts.items() if name != "sources"]
    for name, source in data.facts["sources"].items():
        lines.append(
            f"{name:40} {source['samples']:9,} samples  share {source['share']:.3f}  "
            f"epochs {source['epochs']:.2f}" + (" (above 4)" if source["epochs"] > 4 else "")
        )
    return data.plan.capacity, lines
