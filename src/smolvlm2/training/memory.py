"""Peak memory of a training step on paper, from shapes.

Activations are counted in tensors of one block's width that stay for the backward pass. Source of
the counts: ``docs/decisions/006-training.md``.
"""

from dataclasses import dataclass
from typing import Literal

from smolvlm2.model.config import SmolVLMConfig
from smolvlm2.plan.packs import Capacity
from smolvlm2.training.training_settings import TrainingSettings

Checkpointing = Literal["none", "encoder", "all"]
"""Blocks whose activations are recomputed."""

GIB = 2**30
LOSS_CHUNK_COPIES = 3
"""fp32 tensors of one chunk's logits at the same time: logits, log-softmax, gradient."""


@dataclass(kw_only=True, frozen=True)
class Parameters:
    """Numbers of parameters by part."""

    vision_encoder: int
    """Without pooling head."""
    connector: int
    """One matrix."""
    text_decoder: int
    """With the embedding."""
    lm_head: int
    """0 when tied."""

    @property
    def total(self) -> int:
        """All of them."""
        return self.vision_encoder + self.connector + self.text_decoder + self.lm_head


def count_parameters(config: SmolVLMConfig) -> Parameters:
    """Parameters by part, from the shapes alone."""
    vision, text = config.vision, config.text
    d, f = vision.hidden_size, vision.intermediate_size
    patch = vision.num_channels * vision.patch_size**2
    block = 4 * (d * d + d) + (d * f + f) + (f * d + d) + 4 * d
    encoder = patch * d + d + vision.num_patches * d + vision.num_hidden_layers * block + 2 * d
    w, heads, narrow = text.hidden_size, text.num_attention_heads, text.num_key_value_heads
    attention = 2 * w * heads * text.head_dim + 2 * w * narrow * text.head_dim
    layer = attention + 3 * w * text.intermediate_size + 2 * w
    embedding = text.vocab_size * w
    return Parameters(
        vision_encoder=encoder,
        connector=d * config.scale_factor**2 * w,
        text_decoder=embedding + text.num_hidden_layers * layer + w,
        lm_head=0 if config.tie_word_embeddings else embedding,
    )


@dataclass(kw_only=True, frozen=True)
class MemoryEstimate:
    """Bytes on one device without sharding."""

    states: int
    """Weights, gradients, two moments (trainable parameters only) and, in bf16, a cast copy."""
    activations: int
    """Kept for the backward pass of one pack, and the largest temporary."""

    @property
    def total(self) -> int:
        """Sum, without the runtime's own needs (1 to 2 GiB on a GPU)."""
        return self.states + self.activations


def choose_checkpointing(
    config: SmolVLMConfig,
    capacity: Capacity,
    training: TrainingSettings,
    *,
    vision_trains: bool,
    memory: float | None,
    tile_chunk: int | None = None,
) -> Checkpointing:
    """What the recipe asks for; with ``auto`` the cheapest that fits.

    Args:
        config: Shapes of the model.
        capacity: Of a pack.
        training: Of the recipe.
        vision_trains: Whether the vision encoder trains in any phase.
        memory: Bytes that may be used on one device; None where it is not known: nothing is
            recomputed.
        tile_chunk: Tiles that go through a block at a time.
    """
    asked = training.checkpointing
    if asked != "auto":
        return asked
    choices: tuple[Checkpointing, ...] = ("none", "encoder", "all")
    for choice in choices:
        estimate = estimate_memory(
            config,
            capacity,
            training,
            vision_trains=vision_trains,
            checkpointing=choice,
            tile_chunk=tile_chunk,
        )
        if memory is None or estimate.total <= memory:
            return choice
    return "all"


def estimate_memory(
    config: SmolVLMConfig,
    capacity: Capacity,
    training: TrainingSettings,
    *,
    vision_trains: bool,
    checkpointing: Checkpointing | None = None,
    tile_chunk: int | None = None,
) -> MemoryEstimate:
    """Estimate one phase of a stage.

    Args:
        config: Shapes of the model.
        capacity: Of a pack.
        training: For precision and checkpointing.
        vision_trains: Whether the vision encoder is unfrozen.
        checkpointing: Which blocks are recomputed; None: as the recipe says, and none where it
            says ``auto``.
        tile_chunk: Tiles that go through an encoder block at a time; None: all of a pack.
    """
    if checkpointing is None:
        asked = training.checkpointing
        checkpointing = "none" if asked == "auto" else asked
    counts = count_parameters(config)
    trainable = counts.total - (0 if vision_trains else counts.vision_encoder)
    states = 4 * counts.total + 12 * trainable + (2 * counts.total if training.bf16 else 0)
    width = 2 if training.bf16 else 4
    vision, text = config.vision, config.text
    tile = vision.num_patches * vision.hidden_size * width
    ratio = vision.intermediate_size / vision.hidden_size
    # Kept by one encoder block: its input, two norm outputs, q, k, v, attention, the second
    # residual, and the feed-forward's input and output of GELU.
    per_block = 8 + 2 * ratio
    at_once = min(tile_chunk or capacity.tiles, capacity.tiles)
    if not vision_trains:
        encoder = per_block * at_once * tile
    elif checkpointing != "none":
        encoder = (vision.num_hidden_layers * capacity.tiles + per_block * at_once) * tile
    else:
        encoder = vision.num_hidden_layers * per_block * capacity.tiles * tile
    token = text.hidden_size * width
    share = text.num_key_value_heads / text.num_attention_heads
    gate = text.intermediate_size / text.hidden_size
    # Input, two norm outputs, q and its rotated form, k, v, attention, residual; gate, up and
    # their product, each at the feed-forward's width.
    per_layer = 7 + 3 * share + 4 * gate
    layers = text.num_hidden_layers
    decoder = (layers + per_layer if checkpointing == "all" else layers * per_layer) * token
    pixels = 3 * vision.image_size**2
    chunk = LOSS_CHUNK_COPIES * 512 * text.vocab_size * 4
    activations = encoder + capacity.tiles * pixels * (1 + width) + capacity.tokens * decoder
    return MemoryEstimate(states=int(states), activations=int(activations + chunk))
