"""What ``smolvlm2 plan`` prints: the plan of a recipe, without weights or media."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from smolvlm2.config import find_recipe, load_config
from smolvlm2.data.mixture import MixtureSettings
from smolvlm2.errors import ConfigError
from smolvlm2.loading.micro_batch import sample_weights
from smolvlm2.model.config import SmolVLMConfig
from smolvlm2.plan.figures import Steps, fill, rank_figures, read_steps, spread
from smolvlm2.plan.ranks import check_ranks
from smolvlm2.plan.samples import MODALITIES
from smolvlm2.processing.processor import Processor
from smolvlm2.training.memory import GIB, estimate_memory
from smolvlm2.training.planning import PlannedData, plan_data, prepared_folder, size_plan
from smolvlm2.training.recipe import Recipe
from smolvlm2.training.starting_point import starting_config, starting_tokenizer

MEASURED_STEPS = 100
"""Steps that are planned to measure fill, waiting and spread."""
BATCHES = (1, 2, 4, 8, 16, 32, 64, 128)
"""Samples of a micro-batch that are tried for a GPU's memory."""
RUNTIME_GIB = 2.0
"""What CUDA and its libraries need beside tensors."""
GPU_FLOPS = 0.4 * 989e12
"""FLOP/s of one GPU for the number of cores: 40 % of an H100's dense bf16 peak (assumption)."""
TILES_PER_CORE = 469
"""Tiles a second of one core: photographs of 1600 x 1200 px, ``resample: fast``
(``benchmarks/results/image_processing.json``)."""


def read_arguments(arguments: Sequence[str]) -> Recipe:
    """A recipe from names or files and ``key=value``, in the order given.

    Raises:
        ConfigError: No recipe is named, or one is wrong.
    """
    overrides = [argument for argument in arguments if "=" in argument]
    names = [argument for argument in arguments if "=" not in argument]
    if not names:
        raise ConfigError(
            "no recipe given; name a model's and a stage's, such as model_256m train_vision_stage"
        )
    return load_config(Recipe, *map(find_recipe, names), overrides=overrides)


def describe_plan(
    arguments: Sequence[str],
    *,
    checkpoint: str | Path | None = None,
    ranks: int | None = None,
    gpu_memory: float | None = None,
) -> str:
    """Plan a recipe's mixture and say what came of it.

    Args:
        arguments: Recipes and overrides.
        checkpoint: What the stage would start from; None: the recipe's components.
        ranks: Devices; None: 1, 8 and 64, as far as there are packs for them.
        gpu_memory: GiB of one device, to suggest capacities for.

    Raises:
        PlanError: There are more ranks than packs a step.
    """
    recipe = read_arguments(arguments)
    prepared_folder(recipe)  # before a tokenizer is looked for on the hub
    config = starting_config(recipe, checkpoint)
    tokenizer = starting_tokenizer(recipe, checkpoint)
    processor = Processor.for_model(config, tokenizer, image=recipe.image, video=recipe.video)
    data = plan_data(recipe, processor, context=config.text.max_position_embeddings, config=config)
    weigh = partial(sample_weights, recipe.loss.weight)
    steps = read_steps(data.plan, MEASURED_STEPS, weigh=weigh)
    lines = [*_numbers(recipe, data), "", *_sources(data, steps)]
    if len(steps.packs):
        lines += ["", *_modalities(steps), "", *_ranks(data, steps, ranks)]
        lines += ["", *_cores(data, steps)]
    if gpu_memory is not None:
        lines += ["", *_capacities(recipe, data, config, gpu_memory, ranks)]
    return "\n".join([*lines, *(f"warning: {warning}" for warning in data.warnings)])


def _numbers(recipe: Recipe, data: PlannedData) -> list[str]:
    plan, facts = data.plan, data.facts
    rows = sum(len(table) for table in data.tables)
    one_epoch = rows / data.samples_per_step
    end = "never: sources repeat" if data.steps is None else f"after {data.steps:,} steps"
    return [
        f"pack               {plan.capacity.tokens:,} tokens, {plan.capacity.tiles:,} tiles, at "
        f"most {plan.capacity.documents} samples; {facts['samples_per_pack']} on average",
        f"step               {plan.packs_per_step} packs, {data.samples_per_step:,.1f} samples "
        f"(the recipe asks for {recipe.training.samples_per_step:,})",
        f"mean sample        {facts['mean_tokens']:,} tokens, {facts['mean_tiles']} tiles",
        f"admitted           {rows:,} samples, {one_epoch:,.0f} steps if each comes once",
        f"sources end        {end}",
        f"plan               {facts['digest']}",
    ]


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(len(row[i]) for row in (head, *rows)) for i in range(len(head))]
    return [
        "  ".join(
            cell.ljust(width) if place == 0 else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in (head, *rows)
    ]


def _sources(data: PlannedData, steps: Steps) -> list[str]:
    shared = ("of samples", "of tiles", "of tokens", "of loss")
    head = ("source", "samples", "epochs", *shared, "cut", "left out")
    sums = steps.by_source
    rows = []
    for number, table in enumerate(data.tables):
        facts = data.facts["sources"][table.name]
        shares = [
            f"{sums[name][number] / max(sums[name].sum(), 1):.2%}"
            for name in ("samples", "tiles", "tokens", "loss")
        ]
        left_out = ", ".join(f"{count:,} {reason}" for reason, count in table.excluded.items())
        cells = (table.name, f"{len(table):,}", f"{facts['epochs']:.2f}", *shares)
        rows.append((*cells, f"{table.cut:,}", left_out or "0"))
    return [f"# sources, over {len(steps.packs)} steps", *_table(head, rows)]


def _modalities(steps: Steps) -> list[str]:
    loss = dict(zip(MODALITIES, steps.loss / max(steps.loss.sum(), 1), strict=True))
    rows = [
        (name, f"{share:.2%}", f"{loss[name]:.2%}", f"{ratio:.2f}")
        for name, (share, ratio) in spread(steps.samples).items()
    ]
    head = ("modality", "of samples", "of loss", "spread over steps / independent draws")
    return ["# modalities", *_table(head, rows)]


def _ranks(data: PlannedData, steps: Steps, ranks: int | None) -> list[str]:
    plan = data.plan
    lines = []
    if ranks is not None and (warning := check_ranks(plan.packs_per_step, ranks)):
        data.warnings.append(warning)
    tiles, tokens = fill(steps.packs, plan.capacity)
    lines.append(f"# ranks; packs are filled to {tiles:.1%} in tiles, {tokens:.1%} in tokens")
    head = ("ranks", "encoder", "bound", "useful", "with blanks", "slowest / mean, p95")
    rows = []
    for count in (ranks,) if ranks is not None else (1, 8, 64):
        if count > plan.packs_per_step:
            continue
        for frozen in (True, False):
            found = rank_figures(steps.packs, plan.cost, plan.capacity, ranks=count, frozen=frozen)
            shares = (found.bound, found.useful, found.useful_full)
            rows.append(
                (
                    str(count),
                    "frozen" if frozen else "trains",
                    *(f"{share:.1%}" for share in shares),
                    f"{found.imbalance:.3f}",
                )
            )
    return [*lines, *_table(head, rows)]


def _cores(data: PlannedData, steps: Steps) -> list[str]:
    sums = steps.packs.sum(axis=(0, 1))
    if not sums[0]:
        return ["# cores: no images"]
    cores = []
    for frozen in (True, False):
        seconds = int(data.plan.cost.cost(*sums, frozen=frozen)) / GPU_FLOPS
        cores.append(int(sums[0]) / seconds / TILES_PER_CORE)
    return [
        f"# cores a GPU of {GPU_FLOPS / 1e12:.0f} TFLOP/s (40 % of an H100) needs at "
        f"{TILES_PER_CORE} tiles/s a core: {cores[0]:.1f} with the encoder frozen, {cores[1]:.1f} "
        f"training; clips that are decoded on the fly need more"
    ]


def _capacities(
    recipe: Recipe,
    data: PlannedData,
    config: SmolVLMConfig,
    gpu_memory: float,
    ranks: int | None,
) -> list[str]:
    """Packs of several sizes against a device's memory; the largest that fits is named."""
    mixture = recipe.data.mixture
    assert isinstance(mixture, MixtureSettings)
    head = ("batch", "tokens", "tiles", "packs a step", "GiB", "fits", "ranks without idle time")
    rows: list[tuple[Any, ...]] = []
    best = None
    free = replace(recipe, pack=replace(recipe.pack, tokens=None, tiles=None))
    for batch in BATCHES:
        training = replace(recipe.training, per_device_train_batch_size=batch)
        # The samples of a step stay the recipe's: only the packs change.
        plan, means = size_plan(
            replace(free, training=training), data.tables, mixture, data.plan.cost
        )
        packs = max(1, round(recipe.training.samples_per_step / means["samples_per_pack"]))
        memory = RUNTIME_GIB + max(
            estimate_memory(config, plan.capacity, training, vision_trains=trains).total / GIB
            for trains in (False, True)
        )
        fits = memory <= gpu_memory and packs >= (ranks or 1)
        if fits:
            best = batch, plan.capacity, packs
        divisors = [str(n) for n in range(1, packs + 1) if packs % n == 0]
        shown = ", ".join(divisors[-6:])
        numbers = (batch, f"{plan.capacity.tokens:,}", f"{plan.capacity.tiles:,}", packs)
        rows.append((*numbers, f"{memory:.1f}", "yes" if fits else "no", shown))
        if memory > gpu_memory:
            break
    lines = [
        f"# capacities for {gpu_memory:g} GiB, unsharded, estimated from shapes",
        *_table(head, [tuple(map(str, row)) for row in rows]),
    ]
    if best is None:
        return [
            *lines,
            "none fits: admit smaller samples (image.longest_edge, video.max_frames, "
            "limits.max_tokens), or use fewer ranks",
        ]
    batch, capacity, packs = best
    return [
        *lines,
        f"largest that fits: pack.tokens={capacity.tokens} pack.tiles={capacity.tiles} "
        f"training.per_device_train_batch_size={batch} ({packs} packs a step)",
    ]
