"""How a stage is trained: the settings that its steps read, apart from data and optimiser."""

import math
from dataclasses import dataclass, field
from typing import Literal

from smolvlm2.errors import ConfigError
from smolvlm2.training.adapters import AdapterSettings


@dataclass(kw_only=True)
class ProfileSettings:
    """Which steps are looked at closely; leaves the result of a run as it is."""

    first_step: int = 10
    """The first of them: late enough for compilation to be over."""
    steps: int = 3
    """How many; a trace of each takes some ten megabytes."""
    ranks: list[int] = field(default_factory=lambda: [0])
    """Which processes write, each files of its own."""

    def __post_init__(self) -> None:
        if self.first_step < 0 or self.steps < 1:
            raise ConfigError(
                f"training.profile: first_step is {self.first_step} and steps {self.steps}, "
                f"expected at least 0 and 1"
            )


@dataclass(kw_only=True)
class TrainingSettings:
    """How a stage is trained; the keys that the specification names keep their names."""

    per_device_train_batch_size: int = 8
    """Samples of a micro-batch on one device, on average: packs hold whole samples."""
    gradient_accumulation_steps: int = 4
    """Micro-batches of a device in one optimiser step, on average."""
    reference_devices: int = 8
    """Devices of the recipe: with the two numbers above they fix the samples of a step, which
    stay the same on any number of devices."""
    learning_rate: float = 1e-4
    """Peak rate of every part that has none of its own under ``optimizer``."""
    max_steps: int = 50_000
    """Optimiser steps of the stage."""
    freeze_vision_encoder: bool = False
    """Whether the vision encoder starts frozen."""
    unfreeze_vision_after_steps: int | None = None
    """First step at which it trains; None: it stays as it starts."""
    vision_warmup_steps: int = 500
    """Steps over which its learning rate rises again after unfreezing."""
    bf16: bool = True
    """Compute in bfloat16 on CUDA; weights and sums stay fp32."""
    gradient_checkpointing: bool = True
    """Recompute all blocks' activations in the backward pass instead of keeping them; what
    ``activation_checkpointing`` says goes before it."""
    activation_checkpointing: Literal["auto", "none", "encoder", "all"] | None = None
    """Blocks whose activations are recomputed; ``auto``: the fewest with which a pack fits the
    device; null: as ``gradient_checkpointing`` has it."""
    compile: bool = False
    """Compile each block with torch.compile."""
    deterministic: bool = False
    """On CUDA: only kernels that give the same bits every time, which bit-exact resuming needs; the
    vision encoder's attention gets slower when it trains."""
    seed: int = 42
    """Of everything random: order, tile budgets, first weights, noise and dropout."""
    threads: int | None = None
    """CPU threads of the main process; None: torch's default."""
    max_skip_fraction: float = 0.001
    """Share of samples that may be unreadable before the run stops."""
    neftune_alpha: float = 0.0
    """Strength of the noise on token embeddings in training; 0: none."""
    adapters: AdapterSettings | None = None
    """Train adapters beside the linear layers instead of these; null: the layers themselves."""
    on_nonfinite: Literal["stop", "skip"] = "stop"
    """What a step does whose loss or gradient is not finite: ``stop`` ends the run before the
    update, ``skip`` leaves the weights as they are and goes on."""
    max_nonfinite_steps: int = 10
    """Steps that ``skip`` may leave out in a run."""
    profile: ProfileSettings | None = None
    """Trace some steps; null: none."""

    def __post_init__(self) -> None:
        counts = ("per_device_train_batch_size", "gradient_accumulation_steps", "max_steps")
        for name in (*counts, "reference_devices"):
            if getattr(self, name) < 1:
                raise ConfigError(f"training.{name} is {getattr(self, name)}, expected at least 1")
        for name in (
            "learning_rate",
            "neftune_alpha",
            "vision_warmup_steps",
            "max_skip_fraction",
            "max_nonfinite_steps",
        ):
            if not 0 <= getattr(self, name) < math.inf:
                raise ConfigError(f"training.{name} is {getattr(self, name)}, expected 0 or more")
        if abs(self.seed) >= 2**63:
            raise ConfigError(f"training.seed is {self.seed}, expected less than 2**63")
        if self.threads is not None and self.threads < 1:
            raise ConfigError(f"training.threads is {self.threads}, expected at least 1")
        if self.adapters is not None and self.compile:
            raise ConfigError(
                "training.compile does not go with training.adapters, whose dropout draws by "
                "counters; set training.compile to false"
            )
        if self.unfreeze_vision_after_steps is not None and not self.freeze_vision_encoder:
            raise ConfigError(
                "training.unfreeze_vision_after_steps is set but training.freeze_vision_encoder is "
                "false; set the latter to true, or the former to null"
            )

    @property
    def checkpointing(self) -> Literal["auto", "none", "encoder", "all"]:
        """Blocks whose activations are recomputed, from both settings."""
        if self.activation_checkpointing is not None:
            return self.activation_checkpointing
        return "all" if self.gradient_checkpointing else "none"

    @property
    def samples_per_step(self) -> int:
        """Samples of one optimiser step, on average (the global batch)."""
        per_device = self.per_device_train_batch_size * self.gradient_accumulation_steps
        return per_device * self.reference_devices
