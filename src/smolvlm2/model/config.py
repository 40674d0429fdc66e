"""Shapes of the model, named as in Hugging Face's ``config.json``. No torch in this file.

Source: ``docs/model.md``; class defaults are the published 256M checkpoint's values, because
transformers' own class defaults describe no published checkpoint.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from smolvlm2.errors import CheckpointError, ConfigError
from smolvlm2.model.hub import read_json

LLAMA_DEFAULTS: Mapping[str, Any] = {
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "vocab_size": 32000,
    "max_position_embeddings": 2048,
    "rms_norm_eps": 1e-6,
}
"""What a key that a ``text_config`` leaves out stands for: transformers before 4.5x wrote only what
differs from these, so a file of the 500M does not say that it has 32 layers."""
VISION_DEFAULTS: Mapping[str, Any] = {
    "hidden_size": 1152,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 16,
    "image_size": 224,
    "patch_size": 32,
    "layer_norm_eps": 1e-6,
}
"""The same of a ``vision_config``."""


@dataclass(kw_only=True)
class VisionConfig:
    """SigLIP vision encoder without its pooling head."""

    hidden_size: int = 768
    """Width of a patch, in features."""
    intermediate_size: int = 3072
    """Width of the feed-forward layer, in features."""
    num_hidden_layers: int = 12
    """Encoder layers."""
    num_attention_heads: int = 12
    """Attention heads; they divide ``hidden_size``."""
    image_size: int = 512
    """Side of a tile, in pixels."""
    patch_size: int = 16
    """Side of a patch, in pixels; it divides ``image_size``."""
    num_channels: int = 3
    """Colour channels."""
    layer_norm_eps: float = 1e-6
    """Epsilon of the layer norms."""

    def __post_init__(self) -> None:
        if self.image_size % self.patch_size:
            raise ConfigError(
                f"vision image_size {self.image_size} is not a multiple of patch_size "
                f"{self.patch_size}; choose a tile of whole patches"
            )
        if self.hidden_size % self.num_attention_heads:
            raise ConfigError(
                f"vision hidden_size {self.hidden_size} is not a multiple of "
                f"num_attention_heads {self.num_attention_heads}"
            )

    @property
    def patches_per_side(self) -> int:
        """Patches along one side of a tile."""
        return self.image_size // self.patch_size

    @property
    def num_patches(self) -> int:
        """Patches of a tile: the encoder's sequence length."""
        return self.patches_per_side**2


@dataclass(kw_only=True)
class TextConfig:
    """Llama-style text decoder."""

    hidden_size: int = 576
    """Width of a token, in features."""
    intermediate_size: int = 1536
    """Width of the gated feed-forward layer, in features."""
    num_hidden_layers: int = 30
    """Decoder layers."""
    num_attention_heads: int = 9
    """Query heads."""
    num_key_value_heads: int = 3
    """Key and value heads; they divide ``num_attention_heads``."""
    head_dim: int = 64
    """Width of a head, in features."""
    vocab_size: int = 49280
    """Rows of the embedding and of the language model head."""
    max_position_embeddings: int = 8192
    """Context length, in tokens."""
    rope_theta: float = 100000.0
    """Base of the rotary position embedding."""
    rms_norm_eps: float = 1e-5
    """Epsilon of the RMS norms."""

    def __post_init__(self) -> None:
        if self.num_attention_heads % self.num_key_value_heads:
            raise ConfigError(
                f"text num_attention_heads {self.num_attention_heads} is not a multiple of "
                f"num_key_value_heads {self.num_key_value_heads}"
            )


@dataclass(kw_only=True)
class SmolVLMConfig:
    """A vision encoder, a connector and a text decoder."""

    vision: VisionConfig = field(default_factory=VisionConfig)
    """The vision encoder."""
    text: TextConfig = field(default_factory=TextConfig)
    """The text decoder."""
    scale_factor: int = 4
    """Pixel shuffle ratio r, no unit: r x r patches become one visual token."""
    tie_word_embeddings: bool = False
    """Whether the language model head shares the embedding's matrix."""
    image_token_id: int = 49190
    """Id of ``<image>``, one for each visual token."""
    bos_token_id: int = 1
    """Id that opens a conversation."""
    eos_token_id: int = 49279
    """Id that ends a turn and stops generation (``<end_of_utterance>``)."""
    pad_token_id: int = 2
    """Id that fills a batch."""

    def __post_init__(self) -> None:
        if self.vision.patches_per_side % self.scale_factor:
            raise ConfigError(
                f"a tile of {self.vision.image_size} px has {self.vision.patches_per_side} patches "
                f"a side, which pixel shuffle ratio {self.scale_factor} does not divide; choose a "
                f"ratio or a tile size that fits"
            )

    @property
    def tokens_per_tile(self) -> int:
        """Visual tokens that the connector makes of one tile: patches / ratio squared."""
        return self.vision.num_patches // self.scale_factor**2

    @classmethod
    def from_folder(cls, folder: Path) -> "SmolVLMConfig":
        """Read a checkpoint's ``config.json``, and ``generation_config.json`` where it has one.

        Raises:
            CheckpointNotFoundError: No ``config.json`` there.
            CheckpointError: As ``from_hf``, or a file is not JSON.
        """
        path = folder / "config.json"
        generation = read_json(folder / "generation_config.json", missing_ok=True)
        return cls.from_hf(read_json(path), where=str(path), generation=generation)

    @classmethod
    def from_hf(
        cls,
        config: dict[str, Any],
        *,
        where: str = "config.json",
        generation: Mapping[str, Any] | None = None,
    ) -> "SmolVLMConfig":
        """Read the dictionary of a SmolVLM or Idefics3 ``config.json``.

        Args:
            config: The parsed JSON; both spellings of the RoPE base and of tying are understood,
                and keys left out mean transformers' class defaults.
            where: Name of the file for error messages.
            generation: The dictionary of ``generation_config.json``: which token ends a turn is
                looked up there first, as transformers does.

        Raises:
            CheckpointError: Another architecture, or a key that has no default is missing.
        """
        if config.get("model_type") not in ("smolvlm", "idefics3"):
            raise CheckpointError(
                f"{where}: model_type is {config.get('model_type')!r}, expected 'smolvlm' or "
                f"'idefics3'; this is not a SmolVLM checkpoint"
            )
        try:
            vision_dict = {**VISION_DEFAULTS, **config["vision_config"]}
            text_dict = {**LLAMA_DEFAULTS, **config["text_config"]}
            rope = text_dict.get("rope_parameters") or {}
            if rope.get("rope_type", "default") != "default" or text_dict.get("rope_scaling"):
                raise CheckpointError(
                    f"{where}: text_config asks for scaled RoPE, which SmolVLM never uses"
                )
            text = TextConfig(
                **known_fields(TextConfig, text_dict)
                | {
                    "rope_theta": float(rope.get("rope_theta", text_dict.get("rope_theta", 1e4))),
                    "head_dim": text_dict.get("head_dim")
                    or text_dict["hidden_size"] // text_dict["num_attention_heads"],
                    "num_key_value_heads": text_dict.get("num_key_value_heads")
                    or text_dict["num_attention_heads"],
                }
            )
            vision = VisionConfig(**known_fields(VisionConfig, vision_dict))
            scale_factor = config["scale_factor"]
        except KeyError as error:
            raise CheckpointError(f"{where}: key {error} is missing") from error
        tied = config.get("tie_word_embeddings", text_dict.get("tie_word_embeddings", False))
        # The published top level says 128002, a leftover outside the vocabulary.
        pad = 2 if text_dict.get("pad_token_id") is None else text_dict["pad_token_id"]
        return cls(
            vision=vision,
            text=text,
            scale_factor=scale_factor,
            tie_word_embeddings=bool(tied),
            image_token_id=config["image_token_id"],
            bos_token_id=next(iter(_ids("bos_token_id", config, text_dict)), 1),
            eos_token_id=_end_of_turn(generation or {}, config, text_dict, pad=pad),
            pad_token_id=pad,
        )

    def to_hf(self) -> dict[str, Any]:
        """The dictionary of ``config.json`` that transformers 4.54 and 5.x, vLLM and mlx-vlm read.

        The RoPE base is written flat and as ``rope_parameters``, tying at both levels, because
        these readers look in different places.
        """
        rope = {"rope_type": "default", "rope_theta": self.text.rope_theta}
        ids = {
            "bos_token_id": self.bos_token_id,
            "eos_token_id": self.eos_token_id,
            "pad_token_id": self.pad_token_id,
        }
        return {
            "architectures": ["SmolVLMForConditionalGeneration"],
            "model_type": "smolvlm",
            "image_token_id": self.image_token_id,
            "scale_factor": self.scale_factor,
            "tie_word_embeddings": self.tie_word_embeddings,
            "vocab_size": self.text.vocab_size,
            "use_cache": True,
            **ids,
            "vision_config": {
                "model_type": "smolvlm_vision",
                **asdict(self.vision),
                "hidden_act": "gelu_pytorch_tanh",
                "attention_dropout": 0.0,
                "max_image_size": {"longest_edge": self.vision.image_size},
            },
            "text_config": {
                "model_type": "llama",
                "architectures": ["LlamaForCausalLM"],
                **asdict(self.text),
                **ids,
                "rope_parameters": rope,
                "hidden_act": "silu",
                "attention_bias": False,
                "mlp_bias": False,
                "tie_word_embeddings": self.tie_word_embeddings,
            },
        }


def known_fields(cls: type, values: dict[str, Any]) -> dict[str, Any]:
    """The entries of a ``config.json`` that are fields of a dataclass and not null."""
    names = {item.name for item in fields(cls)}
    return {key: value for key, value in values.items() if key in names and value is not None}


def _ids(key: str, *sources: Mapping[str, Any]) -> list[int]:
    """Every id that a key names, one or a list, the first source's first."""
    values = [source[key] for source in sources if source.get(key) is not None]
    return [int(i) for value in values for i in (value if isinstance(value, list) else [value])]


def _end_of_turn(*sources: Mapping[str, Any], pad: int) -> int:
    """``<end_of_utterance>``: the first id named that is not padding, else the vocabulary's last.

    transformers 5 fills a text configuration that names none with Llama's own 2, which is
    ``<|im_end|>`` here: the padding, which no answer ends with.
    """
    named = [token for token in _ids("eos_token_id", *sources) if token != pad]
    return named[0] if named else int(sources[-1]["vocab_size"]) - 1
