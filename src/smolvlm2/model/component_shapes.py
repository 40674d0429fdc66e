"""Which components a model is made of, and the shapes that follow; reads no weights.

No torch in this file: a recipe is read, and its data looked at, without it.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from smolvlm2.errors import CheckpointError, CheckpointNotFoundError, ConfigError
from smolvlm2.model.config import (
    LLAMA_DEFAULTS,
    SmolVLMConfig,
    TextConfig,
    VisionConfig,
    known_fields,
)
from smolvlm2.model.hub import read_json, resolve_checkpoint

ADDED_TOKENS = 128
"""Rows added to the vocabulary: 40 tokens with a meaning and 88 reserved ones in the middle."""
IMAGE_OFFSET, END_OFFSET = 38, 127
"""Of ``<image>`` and ``<end_of_utterance>`` among the added tokens."""

KNOWN_VISION = {"google/siglip-base-patch16-512": VisionConfig()}
KNOWN_TEXT = {
    "HuggingFaceTB/SmolLM2-135M-Instruct": TextConfig(vocab_size=49152),
    "HuggingFaceTB/SmolLM2-360M-Instruct": TextConfig(
        hidden_size=960,
        intermediate_size=2560,
        num_hidden_layers=32,
        num_attention_heads=15,
        num_key_value_heads=5,
        vocab_size=49152,
    ),
}
"""Shapes of the published components, so that a dry run needs no download."""


@dataclass(kw_only=True)
class VisionSource:
    """Which vision encoder to start from."""

    name: str = "google/siglip-base-patch16-512"
    """Folder or hub id of a SigLIP model, with or without its text tower."""
    image_size: int = 512
    """Side of a tile, px; position embeddings are interpolated when the component's differs."""


@dataclass(kw_only=True)
class TextSource:
    """Which text decoder to start from."""

    name: str = "HuggingFaceTB/SmolLM2-135M-Instruct"
    """Folder or hub id of a Llama-style model."""
    max_position_embeddings: int = 8192
    """Context length, tokens."""
    rope_theta: float = 100000.0
    """Base of the rotary position embedding."""


@dataclass(kw_only=True)
class ConnectorSource:
    """How patches become visual tokens."""

    type: Literal["pixel_shuffle"] = "pixel_shuffle"
    """The only kind there is."""
    ratio: int = 4
    """Pixel shuffle ratio r: r x r patches become one visual token."""


@dataclass(kw_only=True)
class ComponentSettings:
    """The model of a recipe, by its parts (``configs/model_*.yaml``)."""

    vision_encoder: VisionSource = field(default_factory=VisionSource)
    """The vision encoder."""
    text_decoder: TextSource = field(default_factory=TextSource)
    """The text decoder."""
    connector: ConnectorSource = field(default_factory=ConnectorSource)
    """The connector."""
    tie_word_embeddings: bool = False
    """Whether head and embedding stay one matrix; the released checkpoints are untied."""


def component_shapes(settings: ComponentSettings) -> SmolVLMConfig:
    """Shapes of the model that ``load_components`` would build; reads no weights.

    Raises:
        CheckpointError: A component's ``config.json`` is not that of a SigLIP or a Llama.
        ConfigError: The shapes do not fit together.
    """
    vision = _vision_shapes(settings.vision_encoder.name)
    text = _text_shapes(settings.text_decoder.name)
    base = text.vocab_size
    text.vocab_size = base + ADDED_TOKENS
    text.max_position_embeddings = settings.text_decoder.max_position_embeddings
    text.rope_theta = settings.text_decoder.rope_theta
    vision = VisionConfig(**vars(vision) | {"image_size": settings.vision_encoder.image_size})
    return SmolVLMConfig(
        vision=vision,
        text=text,
        scale_factor=settings.connector.ratio,
        tie_word_embeddings=settings.tie_word_embeddings,
        image_token_id=base + IMAGE_OFFSET,
        eos_token_id=base + END_OFFSET,
    )


def component_folder(name: str) -> Path:
    """The local folder of a component, weights included."""
    return resolve_checkpoint(name, patterns=("*.json", "*.safetensors"))


def _component_config(name: str, known: dict[str, Any]) -> tuple[dict[str, Any] | None, str]:
    """The parsed ``config.json`` of a local component, or None for a known published one."""
    if not Path(name).is_dir() and name in known:
        return None, name
    try:
        path = component_folder(name) / "config.json"
    except CheckpointNotFoundError as error:
        raise CheckpointNotFoundError(
            f"model component {error}; known without a download: {', '.join(known)}"
        ) from error
    return read_json(path), str(path)


def _vision_shapes(name: str) -> VisionConfig:
    config, where = _component_config(name, KNOWN_VISION)
    if config is None:
        return VisionConfig(**vars(KNOWN_VISION[name]))
    values = config.get("vision_config", config)
    if not str(values.get("model_type", config.get("model_type"))).startswith("siglip"):
        raise CheckpointError(
            f"{where}: model_type {config.get('model_type')!r}, expected a SigLIP model"
        )
    return VisionConfig(**known_fields(VisionConfig, values))


def _text_shapes(name: str) -> TextConfig:
    config, where = _component_config(name, KNOWN_TEXT)
    if config is None:
        return TextConfig(**vars(KNOWN_TEXT[name]))
    if config.get("model_type") != "llama":
        raise CheckpointError(
            f"{where}: model_type {config.get('model_type')!r}, expected 'llama' (SmolLM2)"
        )
    for key in ("attention_bias", "mlp_bias"):
        if config.get(key):
            raise ConfigError(f"{where}: {key} is set; SmolVLM's text decoder has no biases")
    heads = config["num_attention_heads"]
    return TextConfig(
        **known_fields(TextConfig, {**LLAMA_DEFAULTS, **config})
        | {
            "head_dim": config.get("head_dim") or config["hidden_size"] // heads,
            "num_key_value_heads": config.get("num_key_value_heads") or heads,
        }
    )
