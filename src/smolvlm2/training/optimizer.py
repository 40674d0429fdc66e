"""AdamW with a learning rate for each part of the model and no decay on biases and norms."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from smolvlm2.errors import ConfigError
from smolvlm2.training.adapters import EMBEDDING, are_adapters
from smolvlm2.training.schedule import PARTS

if TYPE_CHECKING:
    from torch import Tensor, nn
    from torch.distributed.device_mesh import DeviceMesh
    from torch.optim import AdamW

Shards = dict[str, "nn.Parameter"]
"""This rank's part of every parameter by name, as plain tensors on the parameters' memory.

AdamW is elementwise, so it needs no more; going through DTensor doubles its time on a CPU."""


@dataclass(kw_only=True)
class OptimizerSettings:
    """AdamW."""

    vision_encoder_learning_rate: float | None = None
    """Peak rate of the vision encoder; null: ``training.learning_rate``."""
    connector_learning_rate: float | None = None
    """Peak rate of the connector; null: ``training.learning_rate``."""
    text_decoder_learning_rate: float | None = None
    """Peak rate of the text decoder and the head; null: ``training.learning_rate``."""
    beta1: float = 0.9
    """Decay of the mean of gradients, a step."""
    beta2: float = 0.999
    """Decay of the mean of squared gradients, a step."""
    eps: float = 1e-8
    """Added to the denominator."""
    weight_decay: float = 0.0
    """Decoupled, a step at the peak rate; never on biases, norms and position embeddings."""
    max_grad_norm: float = 1.0
    """Gradients are scaled down to this norm."""

    def __post_init__(self) -> None:
        for name in (f"{part}_learning_rate" for part in PARTS):
            value = getattr(self, name)
            if value is not None and not 0 <= value < math.inf:
                raise ConfigError(f"optimizer.{name} is {value}, expected 0 or more")
        for name in ("eps", "weight_decay"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ConfigError(f"optimizer.{name} is {getattr(self, name)}, expected 0 or more")
        for name in ("beta1", "beta2"):
            if not 0 <= getattr(self, name) < 1:
                raise ConfigError(
                    f"optimizer.{name} is {getattr(self, name)}, expected a share from 0 to below 1"
                )
        if not self.max_grad_norm > 0:
            raise ConfigError(f"optimizer.max_grad_norm is {self.max_grad_norm}, expected above 0")

    def peak(self, part: str, default: float) -> float:
        """Peak learning rate of a part; ``default`` is ``training.learning_rate``."""
        own = getattr(self, f"{part}_learning_rate")
        return default if own is None else float(own)


def part_of(name: str) -> str:
    """The part that a parameter belongs to."""
    part = name.split(".", 1)[0]
    return "text_decoder" if part == "lm_head" else part


def local_shards(model: "nn.Module") -> Shards:
    """The parts of a model's parameters that lie on this rank."""
    import torch

    from smolvlm2.training.parallelize import local

    with torch.no_grad():
        return {
            name: torch.nn.Parameter(local(parameter.detach()), requires_grad=False)
            for name, parameter in model.named_parameters()
        }


def hand_over_gradients(model: "nn.Module", shards: Shards) -> "list[nn.Parameter]":
    """Move each parameter's gradient to its shard; returns the shards that have one."""
    import torch

    from smolvlm2.training.parallelize import local

    with torch.no_grad():
        for name, parameter in model.named_parameters():
            gradient = parameter.grad
            shards[name].grad = None if gradient is None else local(gradient)
            parameter.grad = None
    return [shard for shard in shards.values() if shard.grad is not None]


def clip_gradients(
    shards: "list[nn.Parameter]", max_norm: float, mesh: "DeviceMesh | None"
) -> "Tensor":
    """Scale gradients down to ``max_norm``; the norm is that of the whole gradient.

    Args:
        shards: With gradients; the same parameters on every rank.
        max_norm: Largest norm that stays as it is.
        mesh: Over whose shards the squares are summed; copies hold equal gradients.

    Returns:
        The norm before, a scalar on the gradients' device.
    """
    import torch
    import torch.distributed as dist

    norm = torch.nn.utils.get_total_norm([shard.grad for shard in shards if shard.grad is not None])
    if mesh is not None and mesh["shard"].size() > 1:
        squares = norm.square()
        dist.all_reduce(squares, group=mesh["shard"].get_group())
        norm = squares.sqrt()
    torch.nn.utils.clip_grads_with_norm_(shards, max_norm, norm)
    return norm


def build_optimizer(
    named_parameters: Iterable[tuple[str, "nn.Parameter"]], settings: OptimizerSettings
) -> "AdamW":
    """An optimiser over all parameters, frozen ones too.

    A frozen parameter has no gradient, so AdamW neither updates nor decays it and keeps no state;
    being in the optimiser from the start is what lets it train later.

    Args:
        named_parameters: Of the model, under our names.
        settings: Of the recipe.

    Returns:
        AdamW with two groups a part (with and without decay); each group carries ``part``, by
        which `freezing.set_learning_rates` gives it a rate before every step.
    """
    from torch.optim import AdamW

    named = dict(named_parameters)
    # With adapters only the embedding's new rows have a gradient: decay would move the others.
    kept = {EMBEDDING} if are_adapters(named) else set()
    groups: dict[tuple[str, bool], list[nn.Parameter]] = {}
    for name, parameter in named.items():
        decays = parameter.ndim >= 2 and "position_embedding" not in name and name not in kept
        groups.setdefault((part_of(name), decays), []).append(parameter)
    return AdamW(
        [
            {
                "params": parameters,
                "part": part,
                "weight_decay": settings.weight_decay if decays else 0.0,
            }
            for (part, decays), parameters in groups.items()
        ],
        betas=(settings.beta1, settings.beta2),
        eps=settings.eps,
        fused=True,
    )
