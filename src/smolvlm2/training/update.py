"""One optimiser step on all ranks: forward and backward passes, clipping, AdamW."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh
from torch.optim import Optimizer

from smolvlm2.loading.micro_batch import MicroBatch
from smolvlm2.loading.step_batch import StepBatch
from smolvlm2.model.smolvlm import SmolVLM, SmolVLMOutput
from smolvlm2.plan.samples import MODALITIES
from smolvlm2.training.distributed import World
from smolvlm2.training.exchange import Computed, StepLoss
from smolvlm2.training.optimizer import (
    OptimizerSettings,
    Shards,
    build_optimizer,
    clip_gradients,
    hand_over_gradients,
    local_shards,
)
from smolvlm2.training.pack_copies import PackCopies
from smolvlm2.training.parallelize import begin_pack
from smolvlm2.training.randomness import PackRandomness
from smolvlm2.training.step_clock import StepClock


@dataclass(kw_only=True)
class Updater:
    """A model and its optimiser, as one rank holds them."""

    model: SmolVLM
    """On its device, in fp32, sharded."""
    mesh: DeviceMesh | None
    """How it is sharded; None: not at all."""
    world: World
    """All ranks."""
    settings: OptimizerSettings
    """Of the recipe."""
    max_length: int
    """Tokens of the longest document possible: of a pack."""
    randomness: PackRandomness = field(default_factory=PackRandomness)
    """Told which pack is being computed."""
    shards: Shards = field(init=False)
    """This rank's part of every parameter."""
    optimizer: Optimizer = field(init=False)
    """Over the shards of all parameters, frozen ones too."""
    clock: StepClock = field(init=False)
    """Where the time goes."""

    def __post_init__(self) -> None:
        self.shards = local_shards(self.model)
        self.optimizer = build_optimizer(self.shards.items(), self.settings)
        self.clock = StepClock(self.world.device)
        self.clock.watch(self.model)
        self._copies = PackCopies(self.world.device)

    def gradients(
        self, batch: StepBatch, numbers: Sequence[int | None], divisor: float, *, at: str
    ) -> tuple[StepLoss, float]:
        """Compute and clip the gradient of a step's loss. All ranks call it, with as many packs.

        Args:
            batch: This rank's packs; they are released on the way.
            numbers: Their places in the step; None for blank packs.
            divisor: Sum of the loss weights of all packs of all ranks.
            at: Where in the run, for messages.

        Returns:
            The step's loss, and the norm of the whole gradient before clipping.
        """
        results: list[_Passed] = []
        behind = self._copies.send(batch.packs[0])
        for place in range(len(batch.packs)):
            sent, last = behind, place == len(batch.packs) - 1
            inputs = sent.arrive()
            if not last:
                behind = self._copies.send(batch.packs[place + 1])
            if self.mesh is not None:
                begin_pack(self.model, self.mesh, last=last)
            self.randomness.begin(numbers[place], batch.packs[place])
            results.append(self._backward(sent.pack, inputs, divisor, at))
            sent.wait()  # computing takes many times as long as copying did
            if not last:
                batch.release(place)
        with self.world.watch(at), self.clock.during("optimizer"):
            with_gradient = hand_over_gradients(self.model, self.shards)
            norm = clip_gradients(with_gradient, self.settings.max_grad_norm, self.mesh)
        computed = Computed(losses={}, by_modality=np.zeros((len(MODALITIES), 2)))
        for number, result in zip(numbers, results, strict=True):
            if number is not None:
                computed.losses[number] = result.loss_sum.item()
                computed.by_modality += result.by_modality()
        with self.clock.waiting():
            told = self.world.gather(computed, at=at)
        return StepLoss.of(told), float(norm)

    @torch.no_grad()
    def token_losses(self, pack: MicroBatch, *, at: str) -> NDArray[np.float64]:
        """Sums of a pack's token losses by modality, without gradients. All ranks call it.

        Args:
            pack: To compute, in whatever mode the model is.
            at: Where in the run, for messages.

        Returns:
            ``(modalities, 2)`` sums of token losses, and their numbers.
        """
        sent = self._copies.send(pack)
        inputs = sent.arrive()
        with self.world.watch(at):
            output = self.model(**inputs, max_length=self.max_length)
        return _Passed.of(sent.pack, output).by_modality()

    def _backward(
        self, pack: MicroBatch, inputs: dict[str, Tensor], divisor: float, at: str
    ) -> "_Passed":
        """Add a pack's gradients."""
        with self.world.watch(at), self.clock.during("text"):
            output = self.model(**inputs, max_length=self.max_length)
            assert output.loss_sum is not None
            (output.loss_sum / divisor).backward()
        return _Passed.of(pack, output)

    def apply(self) -> None:
        """Move the weights along the gradients, and forget these."""
        with self.clock.during("optimizer"):
            self.optimizer.step()
        self.discard()

    def discard(self) -> None:
        """Forget the gradients."""
        self.optimizer.zero_grad(set_to_none=True)


@dataclass(kw_only=True)
class _Passed:
    """What is left of a pack after its passes: nothing that the loader owns."""

    loss_sum: Tensor
    token_losses: Tensor
    real: NDArray[np.bool_]
    modalities: NDArray[np.uint8]

    @classmethod
    def of(cls, pack: MicroBatch, output: SmolVLMOutput) -> "_Passed":
        """Keep what is needed of a pack and what was computed of it."""
        assert output.loss_sum is not None
        assert output.token_losses is not None
        real = pack.loss_weights > 0
        return cls(
            loss_sum=output.loss_sum.detach(),
            token_losses=output.token_losses,
            real=real,
            modalities=pack.modalities[pack.document_ids[pack.loss_positions[real]]],
        )

    def by_modality(self) -> NDArray[np.float64]:
        """``(modalities, 2)`` sums of token losses, and their numbers."""
        losses, kinds = self.token_losses.cpu().numpy()[self.real], len(MODALITIES)
        return np.column_stack(
            [
                np.bincount(self.modalities, weights=losses, minlength=kinds),
                np.bincount(self.modalities, minlength=kinds),
            ]
        )
