"""What the log says of a step beside its times."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from smolvlm2.plan.cost import CostModel
from smolvlm2.plan.packs import Capacity
from smolvlm2.training.exchange import LoadedPack, StepFacts, StepLoss, suspects


@dataclass(kw_only=True, frozen=True)
class StepLine:
    """Makes the numbers of a step's line from what all ranks told."""

    capacity: Capacity
    """Of a pack."""
    cost: CostModel
    """What samples cost."""
    peak: float | None
    """FLOP/s of all ranks' devices on paper; None: not known."""

    def numbers(
        self,
        facts: StepFacts,
        loss: StepLoss | None,
        norm: float,
        *,
        frozen: bool,
        updated: bool,
    ) -> dict[str, Any]:
        """Loss, contents, fill and balance.

        Args:
            facts: What was loaded.
            loss: None: the step has no supervised tokens.
            norm: Of the gradient, before clipping.
            frozen: Whether the vision encoder is.
            updated: Whether the weights moved.
        """
        tokens = sum(pack.tokens for pack in facts.packs)
        tiles = sum(pack.tiles for pack in facts.packs)
        packs = len(facts.packs)
        return {
            "loss": loss.total / facts.divisor if loss is not None and updated else None,
            "gradient_norm": norm if math.isfinite(norm) else None,
            "samples": facts.samples,
            "tokens": tokens,
            "tiles": tiles,
            "supervised": int(loss.by_modality[:, 1].sum()) if loss is not None else 0,
            "loss_by_modality": loss.means() if loss is not None and updated else {},
            "fill_tokens": round(tokens / (self.capacity.tokens * packs), 4),
            "fill_tiles": round(tiles / (self.capacity.tiles * packs), 4),
            "imbalance": self.imbalance(facts, frozen=frozen),
        } | ({} if updated or loss is None else {"nonfinite": suspects(facts, loss)})

    def imbalance(self, facts: StepFacts, *, frozen: bool) -> float:
        """Cost of the costliest rank's packs over the mean of all ranks; 1 is even."""
        if len(facts.packs_of_ranks) == 1:
            return 1.0
        costs = [self._cost(packs, frozen=frozen) for packs in facts.packs_of_ranks]
        mean = sum(costs) / len(costs)
        return round(max(costs) / mean, 4) if mean else 1.0

    def rates(self, facts: StepFacts, seconds: float, *, frozen: bool) -> dict[str, Any]:
        """Rates of a step that took so long, and what share of the devices' peak was useful."""
        columns = _sums(facts.packs)
        useful = self.cost.useful_flops(*columns, frozen=frozen)
        tiles, tokens = columns[:2]
        return {
            "tokens_per_second": round(tokens / seconds),
            "tiles_per_second": round(tiles / seconds, 1),
            "mfu": round(useful / seconds / self.peak, 4) if self.peak else None,
        }

    def _cost(self, packs: list[LoadedPack], *, frozen: bool) -> int:
        columns = (np.array([value], dtype=np.int64) for value in _sums(packs))
        return int(self.cost.cost(*columns, frozen=frozen)[0])


def _sums(packs: list[LoadedPack]) -> tuple[int, int, int, int]:
    """Tiles, tokens, squared lengths and supervised tokens of packs."""
    return (
        sum(pack.tiles for pack in packs),
        sum(pack.tokens for pack in packs),
        sum(pack.squared for pack in packs),
        sum(pack.supervised for pack in packs),
    )
