"""Cross-entropy at supervised positions only, in chunks whose logits are never kept.

Shapes: L tokens, D features, V vocabulary, C positions of a chunk.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint


def supervised_cross_entropy(
    hidden_LD: Tensor, head: nn.Linear, positions: Tensor, targets: Tensor, weights: Tensor
) -> tuple[Tensor, Tensor]:
    """Weighted sum of the cross-entropy of the given positions.

    A full logit tensor of 8,192 x 49,280 in fp32 is 1.6 GB; here one chunk's logits exist at a
    time. They are computed again in the backward pass, but for the last chunk's: these are kept,
    since their backward pass comes first.

    Args:
        hidden_LD: ``(L, D)`` final hidden states.
        head: The language model head, D to V.
        positions: ``(chunks, C)`` int64 row of ``hidden_LD`` that predicts each target.
        targets: ``(chunks, C)`` int64 ids.
        weights: ``(chunks, C)`` float32 weight of each target in the sum; 0 for filler.

    Returns:
        The sum, fp32 scalar with gradient, and the losses of all targets ``(chunks, C)``, fp32
        nats, detached and without weight.
    """
    total = hidden_LD.new_zeros((), dtype=torch.float32)
    losses = []
    last = len(positions) - 1
    for number, chunk in enumerate(zip(positions, targets, weights, strict=True)):
        if torch.is_grad_enabled() and number < last:
            part, each = checkpoint(
                _chunk_loss, hidden_LD, head, *chunk, use_reentrant=False, preserve_rng_state=False
            )
        else:
            part, each = _chunk_loss(hidden_LD, head, *chunk)
        total = total + part
        losses.append(each.detach())
    return total, torch.stack(losses)


def _chunk_loss(
    hidden_LD: Tensor, head: nn.Linear, positions_C: Tensor, targets_C: Tensor, weights_C: Tensor
) -> tuple[Tensor, Tensor]:
    logits_CV = head(hidden_LD.index_select(0, positions_C)).float()
    losses_C = F.cross_entropy(logits_CV, targets_C, reduction="none")
    return (losses_C * weights_C).sum(), losses_C
