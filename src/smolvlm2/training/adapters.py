"""DoRA adapters for an alignment stage: the components stay, small matrices learn beside them.

peft replaces the linear layers; where it draws random numbers ours take their place. Whatever
leaves training (export, evaluation) gets merged weights under the model's own names.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from smolvlm2.errors import ConfigError, MissingDependencyError

if TYPE_CHECKING:
    from torch import Tensor, nn

    from smolvlm2.model.smolvlm import SmolVLM
    from smolvlm2.training.randomness import PackRandomness

_BASE = ".base_layer."
_A, _B, _MAGNITUDE = (
    ".lora_A.default.weight",
    ".lora_B.default.weight",
    ".lora_magnitude_vector.default.weight",
)
EMBEDDING = "text_decoder.embed_tokens.weight"


@dataclass(kw_only=True)
class AdapterSettings:
    """DoRA on every linear layer of the vision encoder, the text decoder and the head."""

    rank: int = 64
    """Inner width of an adapter, features."""
    alpha: float = 16.0
    """Adapters are scaled by ``alpha / rank``."""
    dropout: float = 0.1
    """Share of an adapter's inputs that becomes 0 in training."""
    trained_embeddings_from: int | None = 49_152
    """First row of the embedding that trains: the tokens that the text decoder did not have; null:
    none."""

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise ConfigError(f"training.adapters.rank is {self.rank}, expected at least 1")
        if not 0 <= self.dropout < 1:
            raise ConfigError(
                f"training.adapters.dropout is {self.dropout}, expected a share from 0 to below 1"
            )


def attach_adapters(
    model: "SmolVLM", settings: AdapterSettings, randomness: "PackRandomness"
) -> None:
    """Put an adapter beside each linear layer, before the model is sharded.

    Norms, biases of norms, patch and position embeddings and the connector train in full, and the
    rows of the embedding that are new; the layers themselves do not (`is_adapted`).

    Args:
        model: On its device, with the weights that stay.
        settings: Of the recipe.
        randomness: For the dropout, and with its seed for the adapters' first values.

    Raises:
        MissingDependencyError: peft is not installed.
        ConfigError: The head is tied to the embedding.
    """
    import torch

    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError as error:
        raise MissingDependencyError(
            "training.adapters needs peft: pip install 'smolvlm2[peft]'"
        ) from error
    from smolvlm2.training.randomness import CountedDropout

    if model.config.tie_word_embeddings:
        raise ConfigError(
            "training.adapters needs a head of its own, but model.tie_word_embeddings is true"
        )
    names = [
        name
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) and not name.startswith("connector.")
    ]
    config = LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,
        lora_dropout=settings.dropout,
        use_dora=True,
        target_modules="|".join(re.escape(name) for name in names),
    )
    # peft draws first values that are replaced below; the process's random state stays as it is.
    with torch.random.fork_rng(devices=[]):
        inject_adapter_in_model(config, model)
    generator = torch.Generator(device=model.device).manual_seed(randomness.seed)
    modules = dict(model.named_modules())
    for number, name in enumerate(names):
        layer = modules[name]
        weight = layer.lora_A["default"].weight
        bound = weight.shape[1] ** -0.5
        with torch.no_grad():
            weight.uniform_(-bound, bound, generator=generator)
        if settings.dropout:
            layer.lora_dropout["default"] = CountedDropout(settings.dropout, number, randomness)
    first = settings.trained_embeddings_from

    def keep_old_rows(
        module: "nn.Module", inputs: "tuple[Tensor, ...]", embedded_LD: "Tensor"
    ) -> "Tensor":
        # No gradient reaches a row that stays; its shards need no mask.
        if first is None:
            return embedded_LD.detach()
        return torch.where((inputs[0] >= first)[:, None], embedded_LD, embedded_LD.detach())

    model.text_decoder.embed_tokens.register_forward_hook(keep_old_rows)


def is_adapted(name: str) -> bool:
    """Whether a parameter belongs to a layer that has an adapter, and so stays as it is."""
    return _BASE in name


def are_adapters(names: Iterable[str]) -> bool:
    """Whether there are adapters among parameters."""
    return any(name.endswith(_A) for name in names)


def adapter_scale(model: "nn.Module") -> float:
    """What the adapters' products are multiplied with; 1 without adapters."""
    scales = (getattr(module, "scaling", None) for module in model.modules())
    return next((float(scale["default"]) for scale in scales if isinstance(scale, dict)), 1.0)


def merge_adapters(weights: "dict[str, Tensor]", scale: float) -> "dict[str, Tensor]":
    """Whole weights of a model with adapters as those of the model without them.

    Args:
        weights: By name, as `parallelize.gather_weights` gives them; without adapters they come
            back as they are.
        scale: ``alpha / rank``.

    Returns:
        By the model's own names: magnitude x (W + scale B A), each row at unit norm before.

    Source:
        arXiv:2402.09353, equation 5; equal to peft's merge (tests/training/test_adapters.py).
    """
    import torch

    merged = {}
    for name, tensor in weights.items():
        if name.endswith((_A, _B, _MAGNITUDE)):
            continue
        layer, found, kind = name.partition(_BASE)
        if not found or kind != "weight" or layer + _A not in weights:
            merged[name.replace(_BASE, ".")] = tensor
            continue
        moved = tensor + scale * (weights[layer + _B] @ weights[layer + _A])
        norms = torch.linalg.norm(moved, dim=1)
        merged[f"{layer}.weight"] = moved * (weights[layer + _MAGNITUDE] / norms)[:, None]
    return merged
