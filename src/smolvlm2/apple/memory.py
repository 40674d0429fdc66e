"""Peak memory of LoRA with MLX on paper: a formula of shapes, calibrated on Linux CPU.

Counted is what ``mx.get_peak_memory`` counts; Python and the loading of images come on top. On
Apple's GPU fused attention may need less; that was not measured.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from smolvlm2.apple.lora_settings import AdapterSettings
from smolvlm2.errors import ConfigError
from smolvlm2.model.config import SmolVLMConfig

TILE_CHUNK = 4
"""``model.TILE_CHUNK``; repeated because that file needs mlx (a test compares them)."""
LOSS_CHUNK = 256
"""``model.LOSS_CHUNK``, likewise."""
SCALE_BITS = 32
"""A scale and an offset of 16 bits for each group of quantised weights."""
LOGIT_COPIES, LATER_COPIES = 4, 2
"""Float32 tensors of a loss chunk at one time: logits, log-softmax and their gradients; and of the
next chunk, which starts before the first is freed."""
MLP_COPIES, WIDTH_COPIES = 5.0, 6.5
"""Tensors that a decoder layer keeps for the backward pass, at the two widths. Fitted."""
AHEAD, AHEAD_CHECKPOINTED, AHEAD_LAYER = 6, 3, 12
"""Tensors of the feed-forward's width that are allocated ahead of their turn: without, with
checkpointing, and in a layer that is computed again. MLX allocates as it queues. Fitted."""
FLOATING = 4
"""Bytes of an activation: LoRA's float32 weights promote narrower types."""
UNITS = {"KB": 1e3, "MB": 1e6, "GB": 1e9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}


@dataclass(frozen=True, kw_only=True)
class MemoryCase:
    """What a step's memory depends on."""

    config: SmolVLMConfig
    """Shapes."""
    batch: int = 1
    """Rows B."""
    length: int = 1280
    """Tokens L of a row."""
    supervised: int = 128
    """Supervised tokens P of the batch."""
    tiles: int = 17
    """Tiles T of the batch."""
    bits: int | None = None
    """Of text decoder, head and connector; None: not quantised."""
    bytes_per_weight: int = 2
    """Of everything that is not quantised."""
    checkpointing: bool = False
    """See ``LoraSettings``."""
    adapters: AdapterSettings = field(default_factory=AdapterSettings)
    """Of the text decoder."""


@dataclass(frozen=True, kw_only=True)
class MemoryParts:
    """Bytes by cause."""

    weights: int
    """Of the base, adapters not included."""
    adapters: int
    """Weights, gradients and two moments."""
    vision: int
    """Of one chunk of tiles in the encoder; gone before the decoder starts."""
    features: int
    """Visual tokens, kept to the end of the step."""
    activations: int
    """Of the decoder, kept for the backward pass."""
    logits: int
    """Of supervised positions, beyond what activations leave free."""

    @property
    def total(self) -> int:
        """The peak: vision, or decoder and logits, whichever is larger, on top of the rest."""
        decoder = self.features + self.activations + self.logits
        return self.weights + self.adapters + max(self.vision, decoder)


def estimate(case: MemoryCase) -> MemoryParts:
    """Compute the peak of a step.

    Source:
        Shapes of the tensors; counts fitted by ``benchmarks/apple_memory.py``, errors in
        ``benchmarks/results/apple_memory.json``.
    """
    text, vision = case.config.text, case.config.vision
    d, f, v, heads = (
        text.hidden_size,
        text.intermediate_size,
        text.vocab_size,
        text.num_attention_heads,
    )
    tokens = case.batch * case.length
    wide, narrow = f * tokens * FLOATING, d * tokens * FLOATING
    scores = heads * case.length * tokens * FLOATING
    layer = MLP_COPIES * wide + WIDTH_COPIES * narrow + scores
    rows = min(case.supervised, LOSS_CHUNK)
    later = min(case.supervised - rows, LOSS_CHUNK)
    logits: float = (LOGIT_COPIES * rows + LATER_COPIES * later) * v * FLOATING
    if case.checkpointing:
        kept = text.num_hidden_layers * narrow + AHEAD_CHECKPOINTED * wide
        # Loss and layers take turns: what counts is the larger.
        logits = max(logits - layer - AHEAD_LAYER * wide, 0)
        activations = kept + layer + AHEAD_LAYER * wide
    else:
        activations = text.num_hidden_layers * layer + AHEAD * wide
        logits += rows * v * FLOATING
    # Scores and their softmax, the feed-forward's two ends, four tensors of the encoder's width.
    patches = vision.num_patches
    per_tile = (
        2 * vision.num_attention_heads * patches
        + 2 * vision.intermediate_size
        + 4 * vision.hidden_size
    ) * patches
    width = max(case.bytes_per_weight, 2)
    return MemoryParts(
        weights=int(_text_weights(case) + _vision_parameters(case.config) * case.bytes_per_weight),
        adapters=adapter_parameters(case.config, case.adapters) * 16,
        vision=min(case.tiles, TILE_CHUNK) * per_tile * width,
        features=case.tiles * case.config.tokens_per_tile * d * FLOATING,
        activations=int(activations),
        logits=int(logits),
    )


FORMULA = (
    "peak = weights + adapters + max(vision, features + activations + logits)\n"
    "  weights      text x (16 or bits + 32 / group) / 8 + vision x bytes\n"
    "  adapters     16 x parameters (weight, gradient, two moments)\n"
    f"  vision       (2 h N + 2 f + 4 d) N x bytes, for each of up to {TILE_CHUNK} tiles\n"
    f"  layer        ({MLP_COPIES:g} f + {WIDTH_COPIES:g} d + h L) B L x 4\n"
    f"  activations  layers x layer + {AHEAD} f B L x 4; with checkpointing layers x d B L x 4 + "
    f"layer + {AHEAD_CHECKPOINTED + AHEAD_LAYER} f B L x 4\n"
    f"  logits       {LOGIT_COPIES + 1} V x 4 for each of up to {LOSS_CHUNK} supervised tokens, "
    f"{LATER_COPIES} of the next {LOSS_CHUNK}; with checkpointing {LOGIT_COPIES}, or layer"
)
"""What is printed beside an estimate."""


def describe(case: MemoryCase) -> str:
    """An estimate as text, with its formula and parts."""
    parts = estimate(case)
    rows = [(name, getattr(parts, name)) for name in parts.__dataclass_fields__]
    base = "not quantised" if case.bits is None else f"{case.bits}-bit"
    return "\n".join(
        [
            f"batch {case.batch}, {case.length} tokens a row, {case.supervised} supervised, "
            f"{case.tiles} tiles, {base} text decoder, rank {case.adapters.rank}, "
            f"checkpointing {'on' if case.checkpointing else 'off'}",
            *(f"  {name:12} {size / 1e9:6.2f} GB" for name, size in rows),
            f"  {'peak':12} {parts.total / 1e9:6.2f} GB  (calibrated on Linux CPU; not measured on "
            "Apple hardware)",
            FORMULA,
        ]
    )


def fit_in(limit: int, case: MemoryCase, *, largest_batch: int = 16) -> MemoryCase:
    """The settings that fit and change least.

    Checkpointing costs time only, so it is tried first; then the base is quantised; only then is
    the batch halved.

    Args:
        limit: Bytes.
        case: As asked; its batch is the largest that is tried.
        largest_batch: A cap on that.

    Raises:
        ConfigError: Not even one sample fits, with what it would need.
    """
    cases = list(_variants(replace(case, batch=min(case.batch, largest_batch)), case))
    for one in cases:
        if estimate(one).total <= limit:
            return one
    least = min(estimate(one).total for one in cases)
    raise ConfigError(
        f"--fit-in {limit / 1e9:.1f} GB: one sample of {case.length} tokens and the smallest "
        f"settings need {least / 1e9:.1f} GB; shorten samples, lower the images' longest edge, or "
        f"take the smaller model"
    )


def _variants(start: MemoryCase, asked: MemoryCase) -> Iterator[MemoryCase]:
    choices = (8, 4) if asked.bits is None else ()
    batch = start.batch
    while batch:
        for bits in (asked.bits, *choices):
            for checkpointing in dict.fromkeys((asked.checkpointing, True)):
                share = batch / asked.batch
                yield replace(
                    start,
                    batch=batch,
                    bits=bits,
                    checkpointing=checkpointing,
                    tiles=max(1, round(asked.tiles * share)) if asked.tiles else 0,
                    supervised=max(1, round(asked.supervised * share)),
                )
        batch //= 2


def parse_size(text: str) -> int:
    """Bytes of a size such as ``16GB``.

    Raises:
        ConfigError: Not a number with KB, MB, GB, KiB, MiB or GiB.
    """
    for unit, factor in UNITS.items():
        number = text.upper().removesuffix(unit).strip()
        if text.upper().endswith(unit) and number.replace(".", "", 1).isdigit():
            return int(float(number) * factor)
    raise ConfigError(f"size {text!r} is not understood; expected something like 16GB")


def adapter_parameters(config: SmolVLMConfig, adapters: AdapterSettings) -> int:
    """Trainable parameters."""
    text = config.text
    d, f = text.hidden_size, text.intermediate_size
    queries = text.num_attention_heads * text.head_dim
    narrow = text.num_key_value_heads * text.head_dim
    sizes = {
        "q_proj": (d, queries),
        "k_proj": (d, narrow),
        "v_proj": (d, narrow),
        "o_proj": (queries, d),
        "gate_proj": (d, f),
        "up_proj": (d, f),
        "down_proj": (f, d),
    }
    magnitude = adapters.kind == "dora"
    return text.num_hidden_layers * sum(
        adapters.rank * (inputs + outputs) + magnitude * outputs
        for name, (inputs, outputs) in sizes.items()
        if name in adapters.targets
    )


def _text_weights(case: MemoryCase) -> float:
    """Bytes of decoder, head and connector."""
    text, config = case.config.text, case.config
    d, f = text.hidden_size, text.intermediate_size
    queries = text.num_attention_heads * text.head_dim
    narrow = text.num_key_value_heads * text.head_dim
    linear = text.num_hidden_layers * (2 * d * queries + 2 * d * narrow + 3 * d * f)
    connector = config.vision.hidden_size * config.scale_factor**2 * d
    matrices = linear + 2 * text.vocab_size * d + connector
    norms = (2 * text.num_hidden_layers + 1) * d
    if case.bits is None:
        return (matrices + norms) * case.bytes_per_weight
    widths = (d, f, queries, config.vision.hidden_size * config.scale_factor**2)
    group = 32 if any(width % 64 for width in widths) else 64
    # Scales and offsets have the type of the weights that were quantised.
    overhead = SCALE_BITS * case.bytes_per_weight / 2 / group
    return matrices * (case.bits + overhead) / 8 + norms * case.bytes_per_weight


def _vision_parameters(config: SmolVLMConfig) -> int:
    vision = config.vision
    d, f = vision.hidden_size, vision.intermediate_size
    block = 4 * (d * d + d) + (d * f + f) + (f * d + d) + 4 * d
    patch = vision.num_channels * vision.patch_size**2
    return patch * d + d + vision.num_patches * d + vision.num_hidden_layers * block + 2 * d
