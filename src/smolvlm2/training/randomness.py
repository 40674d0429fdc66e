"""Randomness in training from counters: (seed, step, pack) decides, no random state is kept.

A pack gives the same numbers on whatever rank it is computed, and again when its activations are
recomputed in the backward pass.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from smolvlm2.loading.micro_batch import MicroBatch
from smolvlm2.plan.permutation import derive_key

if TYPE_CHECKING:
    from smolvlm2.model.smolvlm import SmolVLM

NOISE_STREAM = 1
"""Sets the noise on embeddings apart from everything else drawn for a pack."""
DROPOUT_STREAM = 2
"""Likewise for adapters' dropout; each layer has its own number behind it."""
_POSITIVE = 2**63 - 1


@dataclass(kw_only=True)
class PackRandomness:
    """Which pack is being computed; what draws for it asks here."""

    seed: int = 0
    """Of the recipe."""
    step: int = 0
    """Optimiser step; the loop sets it."""
    number: int = 0
    """Place of the pack in its step, over all ranks."""
    lengths: NDArray[np.int64] | None = None
    """``(L,)`` tokens of each position's document; None outside training."""

    def begin(self, number: int | None, pack: MicroBatch) -> None:
        """Turn to another pack.

        Args:
            number: Its place in the step, over all ranks; None for a blank pack.
            pack: For the lengths of its documents.
        """
        self.number = 0 if number is None else number
        self.lengths = np.diff(pack.cu_seqlens)[pack.document_ids]

    def generator(self, device: torch.device, *stream: int) -> torch.Generator:
        """A fresh generator of this pack for one use of random numbers, named by ``stream``."""
        key = derive_key(self.seed, self.step, self.number, *stream)
        return torch.Generator(device=device).manual_seed(key & _POSITIVE)


def add_embedding_noise(model: "SmolVLM", alpha: float, randomness: PackRandomness) -> None:
    """Let token embeddings be noisy while the text decoder is in training mode (NEFTune).

    The noise is uniform in +-alpha / sqrt(L D) for a document of L tokens and D features. Visual
    tokens replace embeddings afterwards and stay as they are.

    Args:
        model: Gets a hook; evaluation mode turns it off.
        alpha: Strength, no unit.
        randomness: Tells which pack is being computed.

    Source:
        arXiv:2310.05914, algorithm 1.
    """

    def hook(module: nn.Module, inputs: Any, embedded_LD: Tensor) -> Tensor:
        if not module.training or randomness.lengths is None:
            return embedded_LD
        generator = randomness.generator(embedded_LD.device, NOISE_STREAM)
        noise = torch.rand(embedded_LD.shape, generator=generator, device=embedded_LD.device)
        width = embedded_LD.shape[1]
        scale = alpha / np.sqrt(randomness.lengths[: len(noise)] * float(width))
        scale_L1 = torch.from_numpy(scale.astype(np.float32)).to(noise.device)[:, None]
        return embedded_LD + ((2 * noise - 1) * scale_L1).to(embedded_LD.dtype)

    model.text_decoder.embed_tokens.register_forward_hook(hook)


class CountedDropout(nn.Module):
    """Dropout whose mask is a function of the pack and the layer.

    Args:
        share: Of the inputs that become 0.
        number: Of the layer.
        randomness: Tells which pack is being computed.
    """

    def __init__(self, share: float, number: int, randomness: PackRandomness) -> None:
        super().__init__()
        self.share, self.number, self.randomness = share, number, randomness

    def forward(self, x: Tensor) -> Tensor:
        """Any shape to the same; what stays is scaled up, in training mode only."""
        if not self.training or not self.share:
            return x
        generator = self.randomness.generator(x.device, DROPOUT_STREAM, self.number)
        kept = torch.rand(x.shape, generator=generator, device=x.device) >= self.share
        return x * kept / (1 - self.share)
