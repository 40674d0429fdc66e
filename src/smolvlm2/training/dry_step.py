"""One real optimiser step of each phase before a run, so that no later step is the first to fail.

Weights are random and samples generated: shapes decide about memory and speed, contents do not.
"""

import time
from pathlib import Path

import numpy as np
import torch

from smolvlm2.errors import ConfigError
from smolvlm2.loading.micro_batch import MicroBatch
from smolvlm2.loading.step_batch import StepBatch
from smolvlm2.model.config import SmolVLMConfig
from smolvlm2.model.smolvlm import SmolVLM
from smolvlm2.plan.packs import Capacity
from smolvlm2.plan.plan import Position
from smolvlm2.training.distributed import World
from smolvlm2.training.dry_run import phases, planned_capacity
from smolvlm2.training.freezing import (
    apply_freezing,
    frozen_parts,
    learning_rates,
    set_learning_rates,
)
from smolvlm2.training.generated import GeneratedIds, GeneratedSample, generate, lay_out
from smolvlm2.training.launch import Launch
from smolvlm2.training.layout_choice import lay_out_model
from smolvlm2.training.memory import GIB
from smolvlm2.training.randomness import PackRandomness
from smolvlm2.training.recipe import Recipe
from smolvlm2.training.stage import join_world
from smolvlm2.training.starting_point import starting_config
from smolvlm2.training.update import Updater

CPU_TOKENS, CPU_TILES = 256, 1
"""Of the pack on a CPU, unless all of it is asked for."""
SUPERVISED_SHARE = 0.143
"""Of the tokens, as in the assumed mixture."""


def dry_step(
    recipe: Recipe,
    checkpoint: str | Path | None = None,
    *,
    full: bool = False,
    device: str | None = None,
    launch: Launch | None = None,
) -> str:
    """Execute a step of each phase, with whole packs two, and say what the last one took.

    All ranks call it.

    Args:
        recipe: Of the stage.
        checkpoint: What the stage would start from, for its shapes; None: the components.
        full: On a CPU: a whole pack too, instead of one tile and 256 tokens.
        device: Where; None: CUDA where there is one, else the CPU.
        launch: How this process was started; None: alone.

    Raises:
        ConfigError: The step's loss is not finite.
    """
    world = join_world(recipe, device, launch)
    config = starting_config(recipe, checkpoint)
    capacity, origin = planned_capacity(recipe, checkpoint, config)
    small = world.device.type == "cpu" and not full
    if small:
        least = CPU_TILES * config.tokens_per_tile + 2
        capacity = Capacity(
            tokens=max(min(CPU_TOKENS, capacity.tokens), least),
            tiles=CPU_TILES,
            documents=capacity.documents,
        )
    updater = _updater(recipe, config, capacity, world)
    pack = _pack(config, capacity, seed=world.rank)
    lines = [
        "# one step of each phase: random weights, full packs of generated samples",
        f"on {world.device}: {capacity.tokens} tokens, {capacity.tiles} tiles "
        + ("(a small pack on a CPU; --full takes a whole one)" if small else f"({origin})"),
        f"{'phase':28} {'loss':>8} {'seconds':>8} {'peak GiB':>9}",
    ]
    # Most is held from a phase's second step on, when its moments are there, and there from the
    # second pack on, beside the sum of gradients.
    a_step = -(-recipe.training.samples_per_step // recipe.training.per_device_train_batch_size)
    steps, packs = (1, 1) if small else (2, min(2, -(-a_step // world.size)))
    for name, first, _ in phases(recipe):
        apply_freezing(updater.model, frozen_parts(first, recipe.training))
        set_learning_rates(updater.optimizer, learning_rates(first, recipe))
        if world.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(world.device)
        for _ in range(steps):
            loss, seconds = _step(updater, [pack] * packs, at=f"dry run, {name}")
        peak = "-"
        if world.device.type == "cuda":
            peak = f"{torch.cuda.max_memory_allocated(world.device) / GIB:.2f}"
        lines.append(f"{name:28} {loss:8.3f} {seconds:8.2f} {peak:>9}")
    world.close()
    return "\n".join(lines)


def _step(updater: Updater, packs: list[MicroBatch], *, at: str) -> tuple[float, float]:
    """Mean loss and seconds of one optimiser step."""
    world, started = updater.world, time.perf_counter()
    batch = StepBatch(packs=packs, position=Position())
    numbers = [world.rank + place * world.size for place in range(len(packs))]
    divisor = world.size * sum(float(pack.loss_weights.sum()) for pack in packs)
    loss, norm = updater.gradients(batch, numbers, divisor, at=at)
    with world.watch(at):
        updater.apply()
    mean = loss.total / divisor
    if not mean < float("inf") or not norm < float("inf"):
        raise ConfigError(
            f"{at}: loss {mean} and gradient norm {norm} are not both finite; check "
            f"training.learning_rate and the model's settings"
        )
    if world.device.type == "cuda":
        torch.cuda.synchronize(world.device)
    return mean, time.perf_counter() - started


def _updater(recipe: Recipe, config: SmolVLMConfig, capacity: Capacity, world: World) -> Updater:
    """A random model set up as the run's would be."""
    seed = recipe.training.seed
    model = SmolVLM.from_random(config, seed=seed, device=world.device)
    randomness = PackRandomness(seed=seed)
    mesh = lay_out_model(model, recipe, capacity, world, randomness)
    return Updater(
        model=model,
        mesh=mesh,
        world=world,
        settings=recipe.optimizer,
        max_length=capacity.tokens,
        randomness=randomness,
    )


def _pack(config: SmolVLMConfig, capacity: Capacity, *, seed: int) -> MicroBatch:
    """A pack filled to capacity: one document where its visual tokens fit, the costliest kind."""
    room = capacity.tokens - 1
    tiles = min(capacity.tiles, room // config.tokens_per_tile)
    tiles -= tiles * config.tokens_per_tile == room  # room for one token with loss
    text = room - tiles * config.tokens_per_tile
    supervised = max(1, min(round(SUPERVISED_SHARE * capacity.tokens), text))
    sample: GeneratedIds = generate(
        config,
        GeneratedSample(tokens=capacity.tokens, tiles=tiles, supervised=supervised),
        seed=seed,
    )
    arrays = lay_out(config, [sample], tokens=capacity.tokens, tiles=capacity.tiles)
    return MicroBatch(
        **arrays,
        sample_ids=["generated"],
        modalities=np.ones(1, dtype=np.uint8),
        tokens=capacity.tokens,
        tiles=tiles,
    )
