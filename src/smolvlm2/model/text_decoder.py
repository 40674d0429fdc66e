"""Llama-style text decoder over one packed sequence of tokens.

Shapes: L tokens, D features, H query heads, K key and value heads, E features of a head.
Module names below this file's root equal the published checkpoint's.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from smolvlm2.model.attention import Attention
from smolvlm2.model.config import TextConfig
from smolvlm2.model.linear import fused_linear


def rotary_angles(
    positions_L: Tensor, config: TextConfig, dtype: torch.dtype
) -> tuple[Tensor, ...]:
    """Cosine and sine of each token's rotary angles.

    Args:
        positions_L: ``(L,)`` position of each token in its document.
        config: For ``head_dim`` and ``rope_theta``.
        dtype: Type of the result; angles are computed in fp32.

    Returns:
        Two ``(L, 1, E)`` tensors; the halves of E hold the same angles.

    Source:
        arXiv:2104.09864, in the half-split layout of Llama checkpoints.
    """
    half = torch.arange(0, config.head_dim, 2, device=positions_L.device, dtype=torch.float32)
    frequencies = config.rope_theta ** (-half / config.head_dim)
    angles = positions_L[:, None].float() * frequencies
    angles = torch.cat([angles, angles], dim=-1)[:, None]
    return angles.cos().to(dtype), angles.sin().to(dtype)


def rotate(x_LHE: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn each pair ``(e, e + E/2)`` of features by its token's angle."""
    first, second = x_LHE.chunk(2, dim=-1)
    return x_LHE * cos + torch.cat([-second, first], dim=-1) * sin


class SelfAttention(nn.Module):
    """Grouped-query attention with rotary positions; who sees whom is the caller's `Attention`."""

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        self.head_dim = config.head_dim
        width, inner = config.hidden_size, config.num_attention_heads * config.head_dim
        narrow = config.num_key_value_heads * config.head_dim
        self.q_proj = nn.Linear(width, inner, bias=False)
        self.k_proj = nn.Linear(width, narrow, bias=False)
        self.v_proj = nn.Linear(width, narrow, bias=False)
        self.o_proj = nn.Linear(inner, width, bias=False)

    def forward(
        self, x_LD: Tensor, angles: tuple[Tensor, ...], attention: Attention, layer: int
    ) -> Tensor:
        """``(L, D)`` to ``(L, D)``."""
        q, k, v = (
            part.unflatten(-1, (-1, self.head_dim))
            for part in fused_linear(x_LD, self.q_proj, self.k_proj, self.v_proj)
        )
        out = attention(layer, rotate(q, *angles), rotate(k, *angles), v)
        return self.o_proj(out.flatten(1))


class FeedForward(nn.Module):
    """SwiGLU: a gated feed-forward layer without biases."""

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)

    def forward(self, x_LD: Tensor) -> Tensor:
        """``(L, D)`` to ``(L, D)``."""
        gate, up = fused_linear(x_LD, self.gate_proj, self.up_proj)
        return self.down_proj(F.silu(gate) * up)


class DecoderLayer(nn.Module):
    """One pre-norm transformer block; the unit of checkpointing, compilation and sharding."""

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        self.input_layernorm = nn.RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.self_attn = SelfAttention(config)
        self.post_attention_layernorm = nn.RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.mlp = FeedForward(config)

    def forward(
        self, x_LD: Tensor, angles: tuple[Tensor, ...], attention: Attention, layer: int
    ) -> Tensor:
        """``(L, D)`` to ``(L, D)``."""
        x_LD = x_LD + self.self_attn(self.input_layernorm(x_LD), angles, attention, layer)
        return x_LD + self.mlp(self.post_attention_layernorm(x_LD))


class TextDecoder(nn.Module):
    """Embedding, blocks and final norm; the language model head is the composed model's."""

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        self.config = config
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(DecoderLayer(config) for _ in range(config.num_hidden_layers))
        self.norm = nn.RMSNorm(config.hidden_size, eps=config.rms_norm_eps)

    def forward(self, x_LD: Tensor, positions_L: Tensor, attention: Attention) -> Tensor:
        """Run the blocks over embedded tokens.

        Args:
            x_LD: ``(L, D)`` token embeddings, visual tokens already in their places.
            positions_L: ``(L,)`` position of each token in its document.
            attention: Which tokens see which.

        Returns:
            ``(L, D)`` after the final norm.
        """
        angles = rotary_angles(positions_L, self.config, x_LD.dtype)
        for index, layer in enumerate(self.layers):
            x_LD = layer(x_LD, angles, attention, index)
        return self.norm(x_LD)
