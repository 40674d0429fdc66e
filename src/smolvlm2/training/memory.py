"""Peak memory of a training step on paper, from shapes.

Activations are counted in tensors of one block's width. Source of the counts:
``docs/decisions/006-training.md``; tests/training/test_counted_memory.py counts a step's tensors.
"""

from dataclasses import dataclass
from typing import Literal

from smolvlm2.loading.micro_batch import CHUNK
from smolvlm2.model.config import SmolVLMConfig
from smolvlm2.plan.packs import Capacity
from smolvlm2.training.adapters import AdapterSettings
from smolvlm2.training.training_settings import TrainingSettings

Checkpointing = Literal["none", "encoder", "all"]
"""Blocks whose activations are recomputed."""

GIB = 2**30
ADAPTERS_NOTE = "adapters: their own activations and products are in no figure of time and memory"
LOSS_CHUNK_COPIES = 3
"""fp32 tensors of one chunk's logits at the same time: log-softmax and two gradients."""


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


def count_trained(
    config: SmolVLMConfig, adapters: AdapterSettings | None
) -> tuple[Parameters, Parameters]:
    """All parameters by part, adapters included, and those that train where no part is frozen."""
    counts = count_parameters(config)
    if adapters is None:
        return counts, counts
    vision, text = config.vision, config.text
    d, f, w = vision.hidden_size, vision.intermediate_size, text.hidden_size
    queries, keys = (
        text.num_attention_heads * text.head_dim,
        text.num_key_value_heads * text.head_dim,
    )
    encoder = [(d, d)] * 4 + [(d, f), (f, d)]
    decoder = [(w, queries), (queries, w)] + [(w, keys)] * 2
    decoder += [(w, text.intermediate_size)] * 2 + [(text.intermediate_size, w)]

    def added(layers: list[tuple[int, int]]) -> int:
        # Two matrices, and a magnitude for each output.
        return sum(adapters.rank * (inner + outer) + outer for inner, outer in layers)

    def kept(layers: list[tuple[int, int]], *, bias: bool) -> int:
        return sum(inner * outer + bias * outer for inner, outer in layers)

    new = Parameters(
        vision_encoder=vision.num_hidden_layers * added(encoder),
        connector=0,
        text_decoder=text.num_hidden_layers * added(decoder),
        lm_head=added([(w, text.vocab_size)]),
    )
    stay = Parameters(
        vision_encoder=vision.num_hidden_layers * kept(encoder, bias=True),
        connector=0,
        text_decoder=text.num_hidden_layers * kept(decoder, bias=False),
        lm_head=counts.lm_head,
    )
    parts = vars(counts)
    everything = {part: number + getattr(new, part) for part, number in parts.items()}
    trained = {part: number - getattr(stay, part) for part, number in everything.items()}
    return Parameters(**everything), Parameters(**trained)


@dataclass(kw_only=True, frozen=True)
class MemoryEstimate:
    """Bytes on one device without sharding."""

    states: int
    """Weights, gradients, two moments (trainable parameters only) and, in bf16, a cast copy."""
    activations: int
    """Everything else at the moment when it is most: pixels of a pack and of the next, what is kept
    for the backward pass, and what a block or the head needs while it computes."""

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
    counts, trained = count_trained(config, training.adapters)
    trainable = trained.total - (0 if vision_trains else trained.vision_encoder)
    states = 4 * counts.total + 12 * trainable + (2 * counts.total if training.bf16 else 0)
    width = 2 if training.bf16 else 4
    kept, forward, backward = _encoder(
        config,
        capacity.tiles,
        min(tile_chunk or capacity.tiles, capacity.tiles),
        width=width,
        trains=vision_trains,
        recomputed=checkpointing != "none",
    )
    decoder = _decoder(config, capacity, width=width, recomputed=checkpointing == "all")
    # A frozen encoder is done when the decoder begins to keep its tensors, and these are gone
    # before the encoder's backward pass: only one of the three is there at a time.
    most = max(forward, kept + decoder, kept + backward)
    pixels = 2 * capacity.tiles * 3 * config.vision.image_size**2
    return MemoryEstimate(states=int(states), activations=int(pixels + most))


def _encoder(
    config: SmolVLMConfig, tiles: int, at_once: int, *, width: int, trains: bool, recomputed: bool
) -> tuple[float, float, float]:
    """Bytes that the encoder keeps for its backward pass, and needs besides in either pass.

    Args:
        config: Shapes of the model.
        tiles: Of a pack.
        at_once: Tiles that go through a block at a time.
        width: Bytes of a number.
        trains: Whether it is unfrozen.
        recomputed: Whether its blocks are.
    """
    vision = config.vision
    tile = vision.num_patches * vision.hidden_size * width
    ratio = vision.intermediate_size / vision.hidden_size
    if not trains:
        # The embeddings, a block's input and the chunks behind it so far; of the last chunk the
        # residual, the second norm, input and output of GELU. Then the chunks are joined.
        last = (3 * tiles - at_once) + (2 + 2 * ratio) * at_once
        return 0.0, max(last, 4 * tiles) * tile, 0.0
    # A block's input, two norm outputs, q, k, v, attention, the second residual, and the
    # feed-forward's input and output of GELU.
    block = 8 + 2 * ratio
    blocks = vision.num_hidden_layers
    # The last norm's input, in whose place comes the gradient of a block's output; and the cut
    # pixels in the type of the weights.
    kept = ((1 if recomputed else block) * blocks + 1) * tiles * tile
    kept += tiles * 3 * vision.image_size**2 * width
    # The gradient of GELU's input; what is recomputed, but for the block's input; and gradients of
    # the chunks that are done.
    backward = (ratio + (block - 1 if recomputed else 0)) * at_once * tile
    backward += (tiles - at_once) * tile
    if not recomputed:
        # Joined weights of q, k, v are made for every chunk.
        kept += blocks * -(-tiles // at_once) * 3 * vision.hidden_size**2 * width
    return kept, 0.0, backward


def _decoder(config: SmolVLMConfig, capacity: Capacity, *, width: int, recomputed: bool) -> float:
    """Bytes that connector, decoder and head keep, and their largest temporaries."""
    vision, text = config.vision, config.text
    token = text.hidden_size * width
    share = text.num_key_value_heads / text.num_attention_heads
    gate = text.intermediate_size / text.hidden_size
    # Input, two norm outputs, q and its rotated form, k, v, attention, residual; gate, up and
    # their product, each at the feed-forward's width.
    layer = 7 + 3 * share + 4 * gate
    layers = text.num_hidden_layers
    # The gradient of the head's weights is summed over chunks in the weights' type.
    head: float = text.vocab_size * (LOSS_CHUNK_COPIES * CHUNK * 4 + token)
    if recomputed:
        # A layer's backward pass, with the gradients of gate and up, or the head's before it.
        again = (layer - 1 + 2 * gate) * capacity.tokens * token
        kept, besides = float(layers * capacity.tokens * token), max(head, again)
    else:
        # And the joined weights of q, k, v and of gate, up.
        joined = 1 + 2 * share + 2 * gate
        kept = layers * (layer * capacity.tokens + joined * text.hidden_size) * token
        besides = head
    # The connector's input, in the order of its weights.
    kept += capacity.tiles * vision.num_patches * vision.hidden_size * width
    return kept + besides
