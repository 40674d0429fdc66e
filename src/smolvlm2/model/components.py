"""A SmolVLM from its two components: a SigLIP vision encoder and a SmolLM2 text decoder.

What is done and why: ``docs/decisions/004-components.md``.
"""

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from smolvlm2.errors import CheckpointError, CheckpointNotFoundError, ConfigError
from smolvlm2.model.config import SmolVLMConfig, TextConfig, VisionConfig, known_fields
from smolvlm2.model.hub import read_json, resolve_checkpoint
from smolvlm2.model.initialisation import random_model
from smolvlm2.model.smolvlm import SmolVLM
from smolvlm2.model.tensor_files import TensorFiles

ADDED_TOKENS = 128
"""Rows added to the vocabulary: 41 tokens with a meaning and 87 reserved ones in the middle."""
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
    """Shapes of the model that `load_components` would build; reads no weights.

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


def load_components(settings: ComponentSettings, *, seed: int) -> SmolVLM:
    """Build a model from its components, in fp32.

    Taken over: the vision encoder without text tower and pooling head, its position embeddings
    interpolated to the tile size; the text decoder, its vocabulary grown by the image tokens, each
    new row the mean of the old ones; the head as a copy of the embedding. New: the connector.

    Args:
        settings: Names and shapes.
        seed: For the connector's weights.

    Raises:
        CheckpointNotFoundError: A component is neither a folder nor on the hub.
        CheckpointError: A tensor is missing, unexpected or misshapen; says which.
    """
    config = component_shapes(settings)
    # Every tensor but the connector is overwritten; a forgotten one would be caught by name.
    model = random_model(config, seed=seed, dtype=torch.float32, device="cpu")
    with torch.no_grad():
        left: dict[str, Tensor] = dict(model.named_parameters())
        _take_vision(TensorFiles(_folder(settings.vision_encoder.name)), left)
        text = TensorFiles(_folder(settings.text_decoder.name))
        base = config.text.vocab_size - ADDED_TOKENS
        embedding = _take_text(text, left, base)
        connector = left.pop("connector.proj.weight")
        # Encoder features leave a layer norm with unit variance; visual tokens start with the
        # magnitude of text embeddings (assumption: the original initialisation is not published).
        scale = embedding.square().mean().sqrt() / math.sqrt(connector.shape[1])
        generator = torch.Generator().manual_seed(seed)
        connector.normal_(std=float(scale), generator=generator)
    if left:
        raise CheckpointError(f"no component gave a value for {sorted(left)[0]!r}")
    return model.eval()


def _take_vision(files: TensorFiles, left: dict[str, Tensor]) -> None:
    """Move ``vision_model.*`` into the model; two-tower and vision-only files are both read."""
    prefix = "vision_model."
    allowed = ("text_model.", "logit_scale", "logit_bias", prefix + "head.")
    taken = set()
    for name in [name for name in left if name.startswith("vision_encoder.")]:
        source = prefix + name.removeprefix("vision_encoder.")
        target = left.pop(name)
        if name.endswith("position_embedding.weight"):
            value = resize_positions(files.read(source), len(target))
        else:
            value = files.read(source, target.shape)
        target.copy_(value)
        taken.add(source)
    _refuse_extra(files, taken, allowed)


def _take_text(files: TensorFiles, left: dict[str, Tensor], base: int) -> Tensor:
    """Move ``model.*`` into the model; returns the base embedding ``(base, D)``."""
    taken = {"lm_head.weight"}
    embedding = files.read("model.embed_tokens.weight")
    for name in [name for name in left if name.startswith("text_decoder.")]:
        source = "model." + name.removeprefix("text_decoder.")
        target = left.pop(name)
        if name == "text_decoder.embed_tokens.weight":
            target.copy_(grow_rows(files.read(source, (base, target.shape[1])), len(target)))
        else:
            target.copy_(files.read(source, target.shape))
        taken.add(source)
    head = left.pop("lm_head.weight", None)
    if head is not None:
        stored = "lm_head.weight" if "lm_head.weight" in files else "model.embed_tokens.weight"
        head.copy_(grow_rows(files.read(stored, (base, head.shape[1])), len(head)))
    _refuse_extra(files, taken, ())
    return embedding.float()


def _refuse_extra(files: TensorFiles, taken: set[str], allowed: tuple[str, ...]) -> None:
    for name in files.names():
        leftover = name.endswith(("position_ids", "rotary_emb.inv_freq"))
        if name not in taken and not leftover and not (allowed and name.startswith(allowed)):
            raise CheckpointError(
                f"{files.folder}: unexpected tensor {name!r}; the component is another "
                f"architecture or deeper than its config.json says"
            )


def resize_positions(table_ND: Tensor, patches: int) -> Tensor:
    """Interpolate a square grid of position embeddings (bicubic) to another tile size.

    Args:
        table_ND: ``(N, D)`` in row-major order.
        patches: Rows of the result, a square.

    Returns:
        ``(patches, D)``; the input itself when the sizes agree.
    """
    if len(table_ND) == patches:
        return table_ND
    old, new = math.isqrt(len(table_ND)), math.isqrt(patches)
    if old * old != len(table_ND):
        raise CheckpointError(f"{len(table_ND)} position embeddings do not form a square grid")
    grid = table_ND.float().T.reshape(1, -1, old, old)
    grid = F.interpolate(grid, size=(new, new), mode="bicubic", align_corners=False)
    return grid.reshape(-1, patches).T


def grow_rows(table_VD: Tensor, rows: int) -> Tensor:
    """Append rows to a matrix, each the mean of its rows, as the released checkpoints were made."""
    mean = table_VD.float().mean(dim=0, keepdim=True)
    return torch.cat([table_VD.float(), mean.expand(rows - len(table_VD), -1)])


def _folder(name: str) -> Path:
    return resolve_checkpoint(name, patterns=("*.json", "*.safetensors"))


def _component_config(name: str, known: dict[str, Any]) -> tuple[dict[str, Any] | None, str]:
    """The parsed ``config.json`` of a local component, or None for a known published one."""
    if not Path(name).is_dir() and name in known:
        return None, name
    try:
        path = _folder(name) / "config.json"
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
        **known_fields(TextConfig, config)
        | {
            "head_dim": config.get("head_dim") or config["hidden_size"] // heads,
            "num_key_value_heads": config.get("num_key_value_heads") or heads,
        }
    )
