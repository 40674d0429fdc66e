"""One matrix product for several linear layers that read the same input."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def fused_linear(x: Tensor, *layers: nn.Linear) -> tuple[Tensor, ...]:
    """Apply ``layers`` to ``x`` as one wide product; the parameters stay separate.

    Checkpoints, adapters and optimisers see the published names (``q_proj``, ``k_proj``, ...),
    while a narrow key or value projection shares a product with its neighbours. Joining the
    weights costs one copy of them a call. Layers that an adapter has replaced are called alone.

    Args:
        x: ``(..., D)``.
        layers: Linear layers from D features, all with bias or all without.

    Returns:
        One ``(..., D_i)`` tensor a layer.
    """
    if any(type(layer) is not nn.Linear for layer in layers):
        return tuple(layer(x) for layer in layers)
    weight = torch.cat(tuple(layer.weight for layer in layers))
    biases = tuple(layer.bias for layer in layers if layer.bias is not None)
    wide = F.linear(x, weight, torch.cat(biases) if biases else None)
    return wide.split([layer.out_features for layer in layers], dim=-1)
