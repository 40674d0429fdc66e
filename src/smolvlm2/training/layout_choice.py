"""How the model of a recipe lies on the ranks, and which blocks are recomputed."""

import logging

from torch.distributed.device_mesh import DeviceMesh

from smolvlm2.model.config import SmolVLMConfig
from smolvlm2.model.smolvlm import SmolVLM
from smolvlm2.plan.packs import Capacity
from smolvlm2.training.adapters import attach_adapters
from smolvlm2.training.distributed import World
from smolvlm2.training.memory import Checkpointing, choose_checkpointing, estimate_memory
from smolvlm2.training.parallelize import (
    FREE_SHARE,
    Layout,
    choose_deterministic_kernels,
    choose_layout,
    device_memory,
    parallelize,
)
from smolvlm2.training.randomness import PackRandomness, add_embedding_noise
from smolvlm2.training.recipe import Recipe

logger = logging.getLogger(__name__)


def lay_out_model(
    model: SmolVLM, recipe: Recipe, capacity: Capacity, world: World, randomness: PackRandomness
) -> DeviceMesh | None:
    """Add what the recipe trains beside the model's weights, and spread it over the ranks.

    Args:
        model: On its device, whole.
        recipe: Of the stage.
        capacity: Of a pack.
        world: All ranks; all of them call it.
        randomness: What noise and dropout draw from.

    Returns:
        The mesh; None on devices that cannot shard.
    """
    config = model.config
    if recipe.training.deterministic:
        choose_deterministic_kernels(world.device)  # adapters begin with products
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
