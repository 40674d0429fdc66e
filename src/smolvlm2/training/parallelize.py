"""What is applied to the model from outside, in one readable order.

Checkpointing first, then (on several devices) sharding: the model knows nothing of it.
"""

import logging
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from smolvlm2.model.smolvlm import SmolVLM

logger = logging.getLogger(__name__)


def choose_device(name: str | None = None) -> torch.device:
    """The device to train on: the named one, else CUDA where there is one, else the CPU."""
    if name is not None:
        return torch.device(name)
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def has_bf16(device: torch.device) -> bool:
    """Whether a device multiplies bfloat16 in hardware."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported()
    return device.type == "cpu" and torch.cpu._is_avx512_bf16_supported()


def precision(device: torch.device, *, bf16: bool) -> AbstractContextManager:
    """The context of a forward pass: bfloat16 products where asked for and possible."""
    if bf16 and has_bf16(device):
        return torch.autocast(device.type, dtype=torch.bfloat16)
    return nullcontext()


def checkpoint_activations(model: SmolVLM) -> None:
    """Recompute each block's activations in the backward pass instead of keeping them."""
    for layer in (*model.vision_encoder.encoder.layers, *model.text_decoder.layers):
        _checkpoint_layer(layer)


def _checkpoint_layer(layer: nn.Module) -> None:
    forward = layer.forward

    def recomputed(*args: object) -> object:
        if not torch.is_grad_enabled():
            return forward(*args)
        return checkpoint(forward, *args, use_reentrant=False, preserve_rng_state=False)

    layer.forward = recomputed
