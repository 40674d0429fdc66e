"""From a recipe to its plan: open the mixture, size the packs, count the steps."""

import json
import logging
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from smolvlm2.data.kept_results import hold, prune
from smolvlm2.data.manifest import Manifest
from smolvlm2.data.mixture import MixtureSettings, check_overlap
from smolvlm2.data.shards import make_durable, unfinished_name
from smolvlm2.errors import ConfigError, DataNotFoundError
from smolvlm2.loading.sample_table import (
    admit,
    open_sources,
    sample_shares,
    unexpected_size,
)
from smolvlm2.model.config import SmolVLMConfig
from smolvlm2.plan.cost import CostModel
from smolvlm2.plan.order import Order
from smolvlm2.plan.packs import Capacity, capacity_for
from smolvlm2.plan.plan import Plan, count_steps, packs_for
from smolvlm2.plan.samples import SourceTable
from smolvlm2.processing.processor import Processor
from smolvlm2.training.model_cost import cost_of
from smolvlm2.training.recipe import Recipe

logger = logging.getLogger(__name__)

SIZING_SAMPLES = 8192
"""Samples of the order from which means are taken: the first window of the default size."""
KEPT_COUNTS = 256
"""Counted plans that are kept, however old: each is a file of some bytes."""
MANY_EPOCHS = 4
"""Above this a source is repeated so often that there is a warning."""


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
    steps: int | None = None
    """Steps after which every source has ended; None: sources repeat for ever."""
    warnings: list[str] = field(default_factory=list)
    """What a user should know before starting."""


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


def plan_data(
    recipe: Recipe,
    processor: Processor,
    *,
    context: int,
    config: SmolVLMConfig | None = None,
) -> PlannedData:
    """Open the mixture's sources and plan them.

    Args:
        recipe: Of the stage.
        processor: Decides tiles and tokens of every sample.
        context: The model's context, tokens.
        config: Shapes of the model, for what samples cost; None: those of the published 256M.

    Raises:
        ConfigError: The recipe has no mixture, or its entries do not fit the sources.
        DataNotFoundError: A source is not prepared; names the command.
        PlanError: The mixture cannot be sampled, or a sample is larger than a pack.
    """
    mixture = recipe.data.mixture
    if mixture is None:
        raise ConfigError(
            "data.mixture is not set; give a recipe that extends a file of configs/mixtures/"
        )
    tables, manifests = open_tables(recipe, mixture, processor, context=context)
    plan, means = size_plan(
        recipe, tables, mixture, CostModel() if config is None else cost_of(config)
    )
    steps = _steps(plan, prepared_folder(recipe))
    per_pack = means["samples_per_pack"]
    facts, warnings = _describe(recipe, plan, means, steps)
    warnings += [
        warning
        for entry, table in zip(mixture.entries, tables, strict=True)
        if (warning := unexpected_size(entry, table))
    ]
    for warning in warnings:
        logger.warning("%s", warning)
    return PlannedData(
        plan=plan,
        tables=tables,
        manifests=manifests,
        samples_per_step=per_pack * plan.packs_per_step,
        facts=facts,
        steps=steps,
        warnings=warnings,
    )


def open_tables(
    recipe: Recipe, mixture: MixtureSettings, processor: Processor, *, context: int
) -> tuple[list[SourceTable], list[Manifest]]:
    """The admitted samples of each entry of a mixture, and the entry's manifest.

    Raises:
        ConfigError: Entries do not fit the sources.
        DataNotFoundError: A source is not prepared; names the command.
    """
    sources = open_sources(mixture, prepared_folder(recipe), processor.tokenizer)
    check_overlap(mixture, {name: manifest.subsets for name, manifest in sources.items()})
    tables = admit(
        mixture.entries,
        sources,
        processor.length_model(),
        recipe.limits,
        max_tokens=min(recipe.limits.max_tokens or context, context),
        seed=recipe.training.seed,
    )
    return tables, [sources[entry.source] for entry in mixture.entries]


def size_plan(
    recipe: Recipe, tables: list[SourceTable], mixture: MixtureSettings, cost: CostModel
) -> tuple[Plan, dict[str, float]]:
    """Resolve capacity and packs per step; no number depends on how many devices there are.

    Args:
        recipe: Of the stage.
        tables: Of each entry of the mixture.
        mixture: Whose weights, unit and epochs count.
        cost: What samples cost.

    Returns:
        The plan, and the means ``tokens`` and ``tiles`` of a sample and ``samples_per_pack``.
    """
    seed, weights = recipe.training.seed, sample_shares(mixture, tables)
    order = Order(tables, weights, seed=seed, epochs=mixture.epochs)
    draw = order.samples(0, SIZING_SAMPLES)
    tokens, tiles, supervised = draw.columns(tables, ("tokens", "tiles", "supervised")).values()
    costs = [cost.cost(tiles, tokens, tokens**2, supervised, frozen=f) for f in (True, False)]
    capacity = capacity_for(
        recipe.pack,
        samples_per_pack=recipe.training.per_device_train_batch_size,
        tokens=tokens,
        tiles=tiles,
        costs=np.column_stack(costs),
        largest_tokens=max(table.total("max_tokens") for table in tables),
        largest_tiles=max(table.total("max_tiles") for table in tables),
    )
    plan = make_plan(recipe, tables, weights, mixture, capacity, cost)
    packs = plan.packs_of_window(0)
    per_pack = sum(len(pack.samples) for pack in packs) / len(packs)
    plan.packs_per_step = packs_for(recipe.training.samples_per_step, per_pack)
    return plan, {
        "tokens": float(tokens.mean()),
        "tiles": float(tiles.mean()),
        "samples_per_pack": per_pack,
    }


def make_plan(
    recipe: Recipe,
    tables: list[SourceTable],
    shares: list[float],
    mixture: MixtureSettings,
    capacity: Capacity,
    cost: CostModel,
) -> Plan:
    """A plan of one pack a step, to be sized."""
    return Plan(
        tables,
        shares,
        capacity=capacity,
        packs_per_step=1,
        window=recipe.pack.window,
        seed=recipe.training.seed,
        cost=cost,
        epochs=mixture.epochs,
    )


def _steps(plan: Plan, prepared: Path) -> int | None:
    """Steps of a plan that ends, counted once and kept under its digest."""
    if plan.windows is None:
        return None
    path = prepared / ".plans" / f"{plan.digest()}.json"
    if hold(path):
        return int(json.loads(path.read_text(encoding="utf-8"))["steps"])
    logger.info("counting the steps of %d windows, once for this plan", plan.windows)
    steps = count_steps(plan)
    unfinished = path.with_name(unfinished_name(path.name))
    try:
        path.parent.mkdir(exist_ok=True)
        unfinished.write_text(json.dumps({"steps": steps}), encoding="utf-8")
        make_durable(unfinished)
        unfinished.rename(path)
        prune(path.parent, "*", file=None, keep=KEPT_COUNTS)
    except OSError as error:
        logger.info("%s: cannot be written (%s), steps are counted again next time", path, error)
    return steps


def _describe(
    recipe: Recipe, plan: Plan, means: dict[str, float], steps: int | None
) -> tuple[dict[str, Any], list[str]]:
    per_step = means["samples_per_pack"] * plan.packs_per_step
    wanted = min(recipe.training.max_steps, steps or recipe.training.max_steps)
    sources, warnings = {}, []
    for number, (table, share) in enumerate(
        zip(plan.tables, plan.order.shares.tolist(), strict=True)
    ):
        seen = share * per_step * wanted
        if plan.order.ends is not None:
            end = int(plan.order.ends[number])
            seen = float(end) if steps == wanted else min(seen, float(end))
        epochs = seen / len(table)
        if epochs > MANY_EPOCHS:
            warnings.append(
                f"{table.name} is gone through {epochs:.1f} times (more than {MANY_EPOCHS}): "
                f"lower its weight, or train fewer steps"
            )
        sources[table.name] = {
            "samples": len(table),
            "share": round(share, 4),
            "epochs": round(epochs, 2),
            "excluded": table.excluded,
            "cut": table.cut,
        }
    facts = {
        "digest": plan.digest(),
        "pack": {"tokens": plan.capacity.tokens, "tiles": plan.capacity.tiles},
        "samples_per_pack": round(means["samples_per_pack"], 2),
        "packs_per_step": plan.packs_per_step,
        "samples_per_step": round(per_step, 1),
        **({"steps_until_sources_end": steps} if steps is not None else {}),
        "mean_tokens": round(means["tokens"], 1),
        "mean_tiles": round(means["tiles"], 2),
        "sources": sources,
    }
    return facts, warnings
