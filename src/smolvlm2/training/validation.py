"""The loss on samples that training does not see: the same ones in the same packs each time."""

import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn
from torch.distributed.fsdp import FSDPModule

from smolvlm2.errors import PlanError, SmolVLMError
from smolvlm2.loading.loader import Loader
from smolvlm2.loading.reader import PackReader, Skip
from smolvlm2.loading.sample_table import sample_shares
from smolvlm2.model.config import SmolVLMConfig
from smolvlm2.plan.cost import CostModel
from smolvlm2.plan.packs import Pack
from smolvlm2.plan.plan import Position
from smolvlm2.plan.run_plan import RunPlan
from smolvlm2.plan.samples import MODALITIES, SourceTable
from smolvlm2.processing.processor import Processor
from smolvlm2.training.distributed import World
from smolvlm2.training.planning import make_plan, open_tables
from smolvlm2.training.rank_share import RankShare
from smolvlm2.training.recipe import Recipe
from smolvlm2.training.update import Updater

logger = logging.getLogger(__name__)


@dataclass(kw_only=True)
class FixedPacks:
    """A few packs that stand in for a plan: one a rank and step, costliest first."""

    packs: list[Pack]
    """All of them, in the order of their costs."""
    packs_per_step: int
    """Ranks."""
    cost: CostModel
    """What samples cost."""

    @property
    def steps(self) -> int:
        """Packs that each rank computes, blank ones among them."""
        return -(-len(self.packs) // self.packs_per_step)

    def step(self, position: Position) -> tuple[list[Pack], Position]:
        """The packs of all ranks, and where the next ones begin.

        Raises:
            PlanError: There are no more.
        """
        first = position.step * self.packs_per_step
        if first >= len(self.packs):
            raise PlanError(f"all {len(self.packs)} packs have been gone through")
        packs = self.packs[first : first + self.packs_per_step]
        return packs, replace(position, step=position.step + 1)

    def close(self) -> None:
        """Nothing runs in the background."""


@dataclass(kw_only=True)
class HeldOut:
    """What is validated on."""

    packs: FixedPacks
    """Which samples lie where."""
    reader: PackReader
    """Turns them into arrays."""
    samples: int
    """Of all packs."""


def plan_validation(
    recipe: Recipe,
    processor: Processor,
    config: SmolVLMConfig,
    training: RunPlan,
    *,
    ranks: int,
) -> HeldOut | None:
    """Choose and pack the samples; says so where training uses some of them too.

    The same samples on any number of ranks. Every image gets the largest budget of tiles, every
    conversation the first order of its turns.

    Args:
        recipe: Of the stage.
        processor: Of the model in training.
        config: Its shapes.
        training: For the capacity of a pack, and for what is not held out.
        ranks: That share the packs.

    Returns:
        None where the recipe does not ask for validation.

    Raises:
        ConfigError: Entries do not fit their sources.
        DataNotFoundError: A source is not prepared.
        PlanError: A sample is larger than the run's packs.
    """
    mixture = recipe.validation.mixture
    if mixture is None:
        return None
    if mixture.epochs is None:
        mixture = replace(mixture, epochs=1.0)  # no sample comes twice
    fixed = Processor.for_model(
        config,
        processor.tokenizer,
        image=replace(recipe.image, random_tiles=False),
        video=recipe.video,
    )
    context = config.text.max_position_embeddings
    tables, manifests = open_tables(recipe, mixture, fixed, context=context)
    plan = make_plan(
        recipe, tables, sample_shares(mixture, tables), mixture, training.capacity, training.cost
    )
    plan.window = recipe.validation.samples
    try:
        packs = plan.pack(0)
    except PlanError as error:
        raise PlanError(f"validation: {error}") from error
    costs = [_cost(pack, plan.cost) for pack in packs]
    order = sorted(range(len(packs)), key=lambda number: (-costs[number], number))
    packs = [packs[number] for number in order]
    samples = sum(len(pack.samples) for pack in packs)
    overlap = count_overlap(packs, tables, training.tables)
    if overlap:
        logger.warning(
            "validation: %d of %d samples are in the training mixture too; their loss says nothing "
            "of unseen ones. Take subsets that data.mixture leaves out",
            overlap,
            samples,
        )
    logger.info("validation: %d samples in %d packs", samples, len(packs))
    return HeldOut(
        packs=FixedPacks(packs=packs, packs_per_step=ranks, cost=plan.cost),
        reader=PackReader(
            tables=tables,
            manifests=manifests,
            processor=fixed,
            capacity=training.capacity,
            image_token_id=config.image_token_id,
            pad_token_id=config.pad_token_id,
            skip_ids=frozenset(recipe.data.skip_ids),
        ),
        samples=samples,
    )


def _cost(pack: Pack, cost: CostModel) -> int:
    columns = [
        np.array([value], dtype=np.int64)
        for value in (pack.tiles, pack.tokens, pack.squared, pack.supervised)
    ]
    return int(cost.cost(*columns, frozen=False)[0])


def count_overlap(
    packs: Sequence[Pack], tables: Sequence[SourceTable], training: Sequence[SourceTable]
) -> int:
    """Samples of packs that tables of the training mixture hold too.

    Args:
        packs: Of the validation.
        tables: Their sources.
        training: Sources of the run, from the segment in progress on.
    """
    found = 0
    for number, table in enumerate(tables):
        index = [pack.samples.index[pack.samples.source == number] for pack in packs]
        rows = table.column("rows", np.concatenate(index)) if index else np.zeros(0, np.int64)
        used = np.zeros(len(rows), dtype=np.bool_)
        for other in training:
            if other.content == table.content:
                used |= np.isin(rows, other.column("rows"))
        found += int(used.sum())
    return found


def validate(held_out: HeldOut, updater: Updater, recipe: Recipe, *, at: str) -> "Validated":
    """Mean loss of a token over all held-out samples. All ranks call it.

    Each rank makes as many forward passes as the others. Nothing of the run changes: no gradient,
    no random number, and the model is as before afterwards.

    Args:
        held_out: What to read.
        updater: The model, as it stands.
        recipe: For the loader's settings.
        at: Where in the run, for messages.

    Raises:
        SmolVLMError: A rank could not read its packs; all ranks raise it.
    """
    world, started = updater.world, time.perf_counter()
    share = RankShare(held_out.packs, rank=world.rank, ranks=world.size)  # type: ignore[arg-type]
    loader = Loader(
        share,  # type: ignore[arg-type]
        held_out.reader,
        Position(),
        workers=recipe.data.workers,
        timeout_s=recipe.data.sample_timeout_s,
        pin=world.device.type == "cuda",
    )
    sums: dict[int, NDArray[np.float64]] = {}
    skips: list[Skip] = []
    samples, position = 0, Position()
    with share, loader, evaluating(updater.model):
        batches = iter(loader)
        for step in range(held_out.packs.steps):
            batch = _next(batches, world, at)
            (number,) = share.numbers(position)
            losses = updater.token_losses(batch.packs[0], at=at)
            if number is not None:
                sums[step * world.size + number] = losses
                samples += len(batch.packs[0].sample_ids)
            skips += batch.skips
            position = batch.position
    told = world.gather((sums, skips, samples), at=at)
    by_pack = {number: losses for each, _, _ in told for number, losses in each.items()}
    # In the order of the packs: the same bits on any number of ranks.
    total = sum((by_pack[number] for number in sorted(by_pack)), np.zeros((len(MODALITIES), 2)))
    return Validated(
        sums=total,
        skips=[skip for _, each, _ in told for skip in each],
        samples=sum(each for _, _, each in told),
        seconds=time.perf_counter() - started,
    )


def _next(batches: Iterator[Any], world: World, at: str) -> Any:
    """This rank's next pack, if all ranks have theirs."""
    batch, failure = None, None
    try:
        batch = next(batches)
    except SmolVLMError as error:
        failure = error
    world.agree(failure, at=at)
    return batch


@dataclass(kw_only=True)
class Validated:
    """What a validation found; equal on every rank but for the time."""

    sums: NDArray[np.float64]
    """``(modalities, 2)`` sums of token losses, and their numbers."""
    skips: list[Skip]
    """Samples that could not be read."""
    samples: int
    """Read."""
    seconds: float
    """On this rank."""

    def line(self) -> dict[str, Any]:
        """For the log."""
        loss, tokens = self.sums.sum(axis=0).tolist()
        return {
            "loss": loss / tokens if tokens else None,
            "loss_by_modality": {
                name: float(total / count)
                for name, (total, count) in zip(MODALITIES, self.sums, strict=True)
                if count
            },
            "samples": self.samples,
            "supervised": int(tokens),
            "skipped": len(self.skips),
            "seconds": round(self.seconds, 3),
        }


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode for a while; sharded weights are put back, modes are as before."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode
            if isinstance(module, FSDPModule):
                # A backward pass would do it: without one, gathered weights stay in their place.
                module.reshard()
