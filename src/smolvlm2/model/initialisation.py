"""Random weights from an own generator; the process's random state is never touched."""

import torch
from torch import Tensor, nn

from smolvlm2.model.config import SmolVLMConfig
from smolvlm2.model.smolvlm import SmolVLM
from smolvlm2.model.vision_encoder import PatchEmbedding

EMBEDDING_DEVIATION = 0.02
"""Of embeddings; the initialiser range of both component families."""


def empty_model(
    config: SmolVLMConfig, *, dtype: torch.dtype, device: str | torch.device
) -> SmolVLM:
    """A model whose parameters are allocated and not yet set."""
    with torch.device("meta"):
        model = SmolVLM(config)
    model = model.to(dtype).to_empty(device=device)
    model.tie_weights()
    return model


def random_model(
    config: SmolVLMConfig, *, seed: int, dtype: torch.dtype, device: str | torch.device
) -> SmolVLM:
    """A model whose weights are a function of ``config``, ``seed`` and the kind of device."""
    model = empty_model(config, dtype=dtype, device=device)
    generator = torch.Generator(device=device).manual_seed(seed)
    with torch.no_grad():
        for module in model.modules():
            _initialise(module, generator)
    return model


def _initialise(module: nn.Module, generator: torch.Generator) -> None:
    weight, bias = getattr(module, "weight", None), getattr(module, "bias", None)
    if isinstance(module, nn.Linear | nn.Embedding | PatchEmbedding):
        assert isinstance(weight, Tensor)
        # By the number of inputs, so that narrow models learn as readily as wide ones: 0.02 suits
        # a width of 2,500 and leaves a width of 100 with signals five times too small.
        deviation = weight[0].numel() ** -0.5
        if isinstance(module, nn.Embedding):
            deviation = EMBEDDING_DEVIATION
        weight.normal_(std=deviation, generator=generator)
    elif isinstance(module, nn.LayerNorm | nn.RMSNorm):
        assert isinstance(weight, Tensor)
        weight.fill_(1)
    if isinstance(bias, Tensor):
        bias.zero_()
