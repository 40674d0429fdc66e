"""What can be set of a LoRA run. No mlx in this file: memory is estimated on any machine."""

from dataclasses import dataclass, field
from typing import Literal

from smolvlm2.errors import ConfigError

TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
"""The linear layers of a decoder layer."""


@dataclass(kw_only=True)
class AdapterSettings:
    """Which layers are adapted, and how."""

    kind: Literal["lora", "dora"] = "lora"
    """DoRA learns a length for each row beside the direction."""
    rank: int = 8
    """Inner width of an adapter."""
    alpha: float = 16.0
    """The update is scaled by alpha / rank, no unit."""
    targets: list[str] = field(default_factory=lambda: list(TARGETS))
    """Linear layers of each decoder layer, by name."""

    def __post_init__(self) -> None:
        if self.kind not in ("lora", "dora"):
            raise ConfigError(f"kind is {self.kind!r}; expected 'lora' or 'dora'")
        if self.rank < 1 or self.alpha <= 0:
            raise ConfigError(
                f"rank {self.rank} and alpha {self.alpha} must be at least 1 and above 0"
            )
        for name in self.targets:
            if name not in TARGETS:
                raise ConfigError(
                    f"target {name!r} is unknown; expected some of {', '.join(TARGETS)}"
                )
        if not self.targets:
            raise ConfigError(f"no targets given; expected some of {', '.join(TARGETS)}")


@dataclass(kw_only=True)
class LoraSettings:
    """A LoRA run."""

    adapters: AdapterSettings = field(default_factory=AdapterSettings)
    """Of the text decoder."""
    iters: int = 100
    """Optimiser steps."""
    batch_size: int = 1
    """Samples that pass the model together."""
    accumulate: int = 1
    """Batches of a step."""
    learning_rate: float = 1e-4
    """Of AdamW, constant."""
    warmup: int = 0
    """Steps over which the learning rate rises to its value."""
    weight_decay: float = 0.0
    """Of AdamW."""
    clip: float = 1.0
    """Largest norm of the gradient of a step."""
    checkpointing: bool = False
    """Keep one tensor a layer and compute the rest twice: less memory, a third more time."""
    save_every: int = 50
    """Steps between checkpoints."""
    keep: int = 2
    """Newest checkpoints that stay."""
    seed: int = 0
    """Of the adapters and of the order of samples."""

    def __post_init__(self) -> None:
        for name in ("iters", "batch_size", "accumulate", "save_every", "keep"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; expected at least 1")
        for name in ("learning_rate", "clip"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"{name} is {getattr(self, name)}; expected more than 0")
        if self.warmup < 0 or self.weight_decay < 0:
            raise ConfigError(
                f"warmup {self.warmup} and weight_decay {self.weight_decay} must not be negative"
            )
