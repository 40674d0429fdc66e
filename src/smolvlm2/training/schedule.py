"""The learning rate as a pure function of the step."""

import math
from dataclasses import dataclass
from typing import Literal

from smolvlm2.errors import ConfigError

PARTS = ("vision_encoder", "connector", "text_decoder")
"""Parts with a learning rate of their own; the head belongs to the text decoder."""


@dataclass(kw_only=True)
class ScheduleSettings:
    """Shape of the learning rate over a stage."""

    type: Literal["cosine", "linear", "wsd", "constant"] = "cosine"
    """``wsd``: warm-up, stable, decay: constant until the last ``decay_fraction`` of the steps."""
    warmup_steps: int | None = None
    """Steps over which the rate rises from 0; None: ``warmup_fraction`` of all steps."""
    vision_encoder_warmup_steps: int | None = None
    """Steps of the vision encoder's own rise; null: as ``warmup_steps``."""
    connector_warmup_steps: int | None = None
    """Steps of the connector's own rise; null: as ``warmup_steps``."""
    text_decoder_warmup_steps: int | None = None
    """Steps of the text decoder's and the head's own rise; null: as ``warmup_steps``."""
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
        for name in ("warmup_steps", *(f"{part}_warmup_steps" for part in PARTS)):
            value = getattr(self, name)
            if value is not None and value < 0:
                raise ConfigError(f"schedule.{name} is {value}, expected 0 or more")

    def warmup(self, max_steps: int, part: str | None = None) -> int:
        """Warm-up steps of a stage of ``max_steps``, of one part where it has its own."""
        own = None if part is None else getattr(self, f"{part}_warmup_steps")
        if own is not None:
            return int(own)
        if self.warmup_steps is not None:
            return self.warmup_steps
        return round(self.warmup_fraction * max_steps)

    def factor(self, step: int, max_steps: int, part: str | None = None) -> float:
        """Share of the peak rate at a step.

        Args:
            step: From 0.
            max_steps: Steps of the stage.
            part: One of `PARTS`, for its own warm-up; ``cosine`` and ``linear`` fall from its end.

        Returns:
            From 0 to 1. The first warm-up step is above 0, the last step reaches ``min_fraction``.
        """
        warmup = self.warmup(max_steps, part)
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
