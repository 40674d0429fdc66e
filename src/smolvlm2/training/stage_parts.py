"""What a stage is made of, before any of it is spread over ranks: model, processor, data, plan."""

import logging
import socket
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed as dist

from smolvlm2.data.manifest import Manifest
from smolvlm2.errors import CheckpointError, ConfigError, SmolVLMError
from smolvlm2.loading.reader import PackReader
from smolvlm2.model.components import load_components
from smolvlm2.model.config import SmolVLMConfig
from smolvlm2.model.initialisation import empty_model
from smolvlm2.model.smolvlm import SmolVLM
from smolvlm2.plan.plan import Position
from smolvlm2.plan.ranks import check_ranks, useful_bound
from smolvlm2.processing.processor import Processor
from smolvlm2.training.checkups import Hook, MakeHook
from smolvlm2.training.distributed import World, shared
from smolvlm2.training.recipe import Recipe
from smolvlm2.training.run_folder import RunFolder
from smolvlm2.training.segments import PlannedRun, plan_run
from smolvlm2.training.shared_work import SharedWork
from smolvlm2.training.starting_point import starting_config, starting_tokenizer
from smolvlm2.training.validation import HeldOut, plan_validation

logger = logging.getLogger(__name__)


@dataclass(kw_only=True)
class StageParts:
    """What a stage is made of; the same on every rank."""

    recipe: Recipe
    """Of the stage."""
    config: SmolVLMConfig
    """Of the model."""
    processor: Processor
    """Makes samples of conversations."""
    planned: PlannedRun
    """Which packs make which step."""
    model: SmolVLM
    """On its device, in fp32, whole; without values where a checkpoint of the run gives them."""

    def reader(self) -> PackReader:
        """Turns packs of the plan into arrays."""
        planned = self.planned
        return PackReader(
            tables=planned.plan.tables,
            manifests=planned.manifests,
            processor=self.processor,
            capacity=planned.plan.capacity,
            image_token_id=self.config.image_token_id,
            pad_token_id=self.config.pad_token_id,
            loss_weight=self.recipe.loss.weight,
        )

    def watchers(
        self, work: SharedWork, make_hook: MakeHook | None
    ) -> tuple[HeldOut | None, Hook | None]:
        """What looks at the model on the way; what it misses is said before training starts."""
        recipe = self.recipe
        held_out = plan_validation(
            recipe, self.processor, self.config, self.planned.plan, ranks=work.size
        )
        if make_hook is None:
            if recipe.evaluation.benchmarks:
                logger.warning("evaluation.benchmarks has no effect: nothing here can evaluate")
            return held_out, None
        return held_out, make_hook(recipe, self.processor, work)


def make_parts(
    run: RunFolder,
    recipe: Recipe,
    checkpoint: str | Path | None,
    world: World,
    *,
    position: Position | None,
    replan: bool,
) -> StageParts:
    """Read model, tokenizer and data, and plan them.

    Args:
        run: Where the plan of a run that goes on is.
        recipe: Of the stage.
        checkpoint: What to start from; None: the recipe's components.
        world: All ranks.
        position: Where the run goes on; None: it begins.
        replan: Begin a new segment there.

    Raises:
        CheckpointError: Tokenizer and model do not belong together.
        PlanError: There are more ranks than packs in a step.
    """
    config, processor, planned = _plan(run, recipe, checkpoint, position, replan=replan)
    _tell_useful_share(planned, world)
    if position is not None:  # every weight comes from the run's own checkpoint
        model = empty_model(config, dtype=torch.float32, device=world.device)
    elif checkpoint is None:
        model = load_components(recipe.model, seed=recipe.training.seed)
    else:
        model = SmolVLM.from_pretrained(checkpoint, dtype=torch.float32)
    return StageParts(
        recipe=recipe,
        config=config,
        processor=processor,
        planned=planned,
        model=model.to(world.device),
    )


def plan_first(
    run: RunFolder,
    recipe: Recipe,
    checkpoint: str | Path | None,
    world: World,
    *,
    position: Position | None,
    replan: bool,
) -> None:
    """Let rank 0 compute what is kept beside the data; `make_parts` finds it there on all ranks.

    Lengths of millions of samples take minutes the first time.
    """
    if world.size == 1:
        return
    failure: SmolVLMError | None = None
    if world.leads:
        try:
            _plan(run, recipe, checkpoint, position, replan=replan)
        except SmolVLMError as error:
            failure = error
    for each in world.gather_late(failure, at="start"):
        if each is not None:
            raise shared(each)


def _plan(
    run: RunFolder,
    recipe: Recipe,
    checkpoint: str | Path | None,
    position: Position | None,
    *,
    replan: bool,
) -> tuple[SmolVLMConfig, Processor, PlannedRun]:
    config = starting_config(recipe, checkpoint)
    tokenizer = starting_tokenizer(recipe, checkpoint)
    if tokenizer.vocab_size != config.text.vocab_size:
        raise CheckpointError(
            f"the tokenizer has {tokenizer.vocab_size} tokens and the model "
            f"{config.text.vocab_size} rows; they do not belong together"
        )
    processor = Processor.for_model(config, tokenizer, image=recipe.image, video=recipe.video)
    planned = plan_run(run, recipe, processor, config, position=position, replan=replan)
    return config, processor, planned


def _tell_useful_share(planned: PlannedRun, world: World) -> None:
    packs = min(segment.plan.packs_per_step for segment in planned.plan.segments)
    warning = check_ranks(packs, world.size)
    if warning is not None:
        logger.warning(warning)
    if world.size > 1:
        share = useful_bound(packs, world.size)
        logger.info(
            "%d packs a step on %d ranks: %.0f %% useful at most", packs, world.size, 100 * share
        )


def check_alike(planned: PlannedRun, config: SmolVLMConfig, world: World) -> None:
    """Refuse ranks that would train on other packs, or another model, than rank 0 takes them to.

    Raises:
        ConfigError: Names them and their machines.
    """
    plan = [record.digest for record in planned.records]
    told = world.gather((plan, config.to_hf(), socket.gethostname()), at="start")
    for place, what in enumerate(
        (
            "the prepared data or the settings there make another plan than those",
            "the checkpoint or the components there are of another model than those",
        )
    ):
        others = [
            f"rank {rank} on {each[2]}"
            for rank, each in enumerate(told)
            if each[place] != told[0][place]
        ]
        if others:
            raise shared(
                ConfigError(
                    f"{', '.join(others)}: {what} of rank 0 on {told[0][2]}; let DATA_DIR or "
                    f"data.root, and what the run starts from, be the same files on all machines, "
                    f"and start all ranks with the same arguments"
                )
            )


@torch.no_grad()
def take_weights_of_rank_0(model: SmolVLM, world: World) -> None:
    """Let all ranks begin with the same weights, to the bit. All of them call it.

    Sharding takes each rank's own: copies of a checkpoint that differ from machine to machine, or
    processors that round in other ways while positions are interpolated, would mix without a word.

    Args:
        model: On its device, whole.
        world: All ranks.
    """
    if world.size == 1:
        return
    with world.watch("start"):
        for parameter in model.parameters():
            dist.broadcast(parameter, src=0)


def warn_of_idle_ids(ids: list[str], manifests: list[Manifest]) -> None:
    """Say which entries of ``data.skip_ids`` leave nothing out, and why."""
    sources = {manifest.hash: manifest for manifest in manifests if ids}.values()
    for wanted in ids:
        places = ((manifest, manifest.find(wanted)) for manifest in sources)
        found = [manifest.sample_id(row) for manifest, row in places if row is not None]
        if not found:
            logger.warning("data.skip_ids: %r is no sample of this run's data", wanted)
        elif wanted not in found:
            logger.warning(
                "data.skip_ids: %r has no effect, it is a row of the sample %r; list that",
                wanted,
                found[0],
            )
