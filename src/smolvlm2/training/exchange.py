"""What the ranks tell each other in a step, and what follows from all of it.

Every rank computes the same conclusions from the same words, so that all of them stop, skip and
save at the same step.
"""

import hashlib
import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from smolvlm2.errors import SmolVLMError
from smolvlm2.loading.micro_batch import MicroBatch
from smolvlm2.plan.samples import MODALITIES
from smolvlm2.training.signals import Ending

if TYPE_CHECKING:
    from smolvlm2.loading.reader import Skip

SHOWN_IDS = 8
"""Sample ids that an error message lists."""


@dataclass(kw_only=True)
class LoadedPack:
    """A pack as it was really loaded."""

    sample_ids: list[str]
    """That it holds."""
    weight: float
    """Sum of its loss weights."""
    tokens: int
    """In use."""
    tiles: int
    """In use."""
    squared: int = 0
    """Sum of its documents' squared lengths, tokens squared."""
    supervised: int = 0
    """Tokens with loss."""

    @classmethod
    def of(cls, pack: MicroBatch) -> "LoadedPack":
        """Read them off a pack."""
        bounds = pack.cu_seqlens[:-1].astype(np.int64)  # the last document is filler
        return cls(
            sample_ids=pack.sample_ids,
            weight=float(pack.loss_weights.sum(dtype=np.float64)),
            tokens=pack.tokens,
            tiles=pack.tiles,
            squared=int(np.square(bounds[1:] - bounds[:-1]).sum()),
            supervised=int(np.count_nonzero(pack.loss_weights)),
        )


@dataclass(kw_only=True)
class Loaded:
    """One rank's word before a step's first forward pass."""

    packs: dict[int, LoadedPack] = field(default_factory=dict)
    """By place in the step; blank ones are left out."""
    skips: list["Skip"] = field(default_factory=list)
    """Samples that it could not read."""
    stop: Ending | None = None
    """Whether it was asked to stop."""
    written: bool = False
    """Whether its part of a checkpoint begun earlier is on disk."""
    failure: SmolVLMError | None = None
    """What keeps it from going on."""


@dataclass(kw_only=True)
class StepFacts:
    """A step as all ranks loaded it; equal on every rank."""

    packs: list[LoadedPack]
    """In the plan's order."""
    skips: list["Skip"]
    """Likewise by rank."""
    stop: Ending | None
    """Whether any rank was asked to stop."""
    written: bool
    """Whether all parts of a checkpoint are on disk."""
    failure: SmolVLMError | None
    """The first rank's."""
    packs_of_ranks: list[list[LoadedPack]] = field(default_factory=list)
    """By rank."""

    @classmethod
    def of(cls, told: list[Loaded]) -> "StepFacts":
        """Put together what all ranks told."""
        packs = {number: facts for each in told for number, facts in each.packs.items()}
        return cls(
            packs=[packs[number] for number in sorted(packs)],
            skips=[skip for each in told for skip in each.skips],
            stop=next((each.stop for each in told if each.stop), None),
            written=all(each.written for each in told),
            failure=next((each.failure for each in told if each.failure), None),
            packs_of_ranks=[list(each.packs.values()) for each in told],
        )

    @property
    def divisor(self) -> float:
        """Of the step's loss. Summed in the plan's order: the same bits on any number of ranks."""
        return sum(pack.weight for pack in self.packs)

    @property
    def samples(self) -> int:
        """In the step."""
        return sum(len(pack.sample_ids) for pack in self.packs)

    def chain(self, before: str) -> str:
        """Digest of the ids really loaded, in the plan's order, and of all steps before."""
        return chain_ids(before, [id for pack in self.packs for id in pack.sample_ids])


def chain_ids(before: str, ids: list[str]) -> str:
    """Digest of a step's ids, in the plan's order, and of the digest of the step before."""
    return hashlib.sha256(f"{before}|{','.join(ids)}".encode()).hexdigest()[:16]


@dataclass(kw_only=True)
class Computed:
    """One rank's word after its backward passes."""

    losses: dict[int, float]
    """Weighted loss of each pack, by place in the step."""
    by_modality: NDArray[np.float64]
    """``(modalities, 2)`` sums of token losses, and their numbers."""


@dataclass(kw_only=True)
class StepLoss:
    """A step's loss; equal on every rank."""

    losses: list[float]
    """Of each pack, in the plan's order."""
    by_modality: NDArray[np.float64]
    """``(modalities, 2)``."""

    @classmethod
    def of(cls, told: list[Computed]) -> "StepLoss":
        """Put together what all ranks told."""
        losses = {number: loss for each in told for number, loss in each.losses.items()}
        return cls(
            losses=[losses[number] for number in sorted(losses)],
            by_modality=np.sum([each.by_modality for each in told], axis=0),
        )

    @property
    def total(self) -> float:
        """Sum over the packs."""
        return sum(self.losses)

    def means(self) -> dict[str, float]:
        """Mean loss of a token by modality; modalities without one are left out."""
        return {
            name: float(total / count)
            for name, (total, count) in zip(MODALITIES, self.by_modality, strict=True)
            if count
        }


def suspects(facts: StepFacts, loss: StepLoss) -> list[str]:
    """Ids of the samples behind a loss that is not finite: of the bad packs, else of all."""
    pairs = list(zip(facts.packs, loss.losses, strict=True))
    bad = [pack for pack, value in pairs if not math.isfinite(value)] or facts.packs
    return [id for pack in bad for id in pack.sample_ids]


def name_samples(ids: list[str]) -> str:
    """A list of ids for a message, cut short."""
    more = f" and {len(ids) - SHOWN_IDS} more" if len(ids) > SHOWN_IDS else ""
    return ", ".join(ids[:SHOWN_IDS]) + more
