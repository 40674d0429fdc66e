"""The learning rate as a pure function of the step."""

import math
from dataclasses import dataclass
from typing import Literal

from smolvlm2.errors import ConfigError


@dataclass(kw_only=True)
class ScheduleSettings:
    """Shape of the learning rate over a stage."""

    type: Literal["cosine", "linear", "wsd", "constant"] = "cosine"
    """``wsd``: warm-up, stable, decay: constant until the last ``decay_fraction`` of the steps."""
    warmup_steps: int | None = None
    """Steps over which the rate rises from 0; None: ``warmup_fraction`` of all steps."""
    warmup_fraction: float = 0.03
    """Share of the steps, used when ``warmup_steps`` is null."""
    decay_fraction: float = 0.1
    """Share of the steps over which ``wsd`` falls linearly."""
    min_fraction: float = 0.0
    """Rate at the last step as a share of the peak."""

    def __post_init__(self) -> None:
        for name in ("warmup_fraction", "decay_fraction", "min_fraction"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(
                    f"schedule.{name} is {getattr(self, name)}, expected a share from 0 to 1"
                )
        if self.warmup_steps is not None and self.warmup_steps < 0:
            raise ConfigError(f"schedule.warmup_steps is {self.warmup_steps}, expected 0 or more")

    def warmup(self, max_steps: int) -> int:
        """Warm-up steps of a stage of ``max_steps``."""
        if self.warmup_steps is not None:
            return self.warmup_steps
        return round(self.warmup_fraction * max_steps)

    def factor(self, step: int, max_steps: int) -> float:
        """Share of the peak rate at a step.

        Args:
            step: From 0.
            max_steps: Steps of the stage.

        Returns:
            From 0 to 1. The first warm-up step is above 0, the last step reaches ``min_fraction``.
        """
        warmup = self.warmup(max_steps)
        if step < warmup:
            return (step + 1) / warmup
        if self.type == "constant":
            return 1.0
        start = warmup
        if self.type == "wsd":
            start = max(warmup, max_steps - max(1, round(self.decay_fraction * max_steps)))
            if step < start:
                return 1.0
        progress = min(1.0, (step - start + 1) / max(1, max_steps - start))
        falling = (1 + math.cos(math.pi * progress)) / 2 if self.type == "cosine" else 1 - progress
        return self.min_fraction + (1 - self.min_fraction) * falling
