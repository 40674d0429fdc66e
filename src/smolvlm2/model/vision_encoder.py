"""SigLIP vision encoder: a pre-norm transformer over the patches of one tile.

Shapes: T tiles, N patches of a tile, D features, S side of a tile in pixels, P side of a patch.
Module names below this file's root equal the published checkpoint's.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from smolvlm2.model.config import VisionConfig
from smolvlm2.model.linear import fused_linear


class PatchEmbedding(nn.Module):
    """The weights of a convolution with stride P, applied as a linear layer on cut patches."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        side = config.patch_size
        self.weight = nn.Parameter(torch.empty(config.hidden_size, config.num_channels, side, side))
        self.bias = nn.Parameter(torch.empty(config.hidden_size))

    def forward(self, pixels_TCSS: Tensor) -> Tensor:
        """``(T, C, S, S)`` pixels to ``(T, N, D)``, patches in row-major order."""
        tiles, channels, height, width = pixels_TCSS.shape
        side = self.weight.shape[-1]
        rows, columns = height // side, width // side
        patches = pixels_TCSS.view(tiles, channels, rows, side, columns, side)
        patches = patches.permute(0, 2, 4, 1, 3, 5).reshape(tiles, rows * columns, -1)
        return F.linear(patches, self.weight.flatten(1), self.bias)


class Embeddings(nn.Module):
    """Patch embedding plus a learned position embedding, positions in row-major order.

    A unit of compilation: scaling, cutting and casting read and write every pixel once then.
    """

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.patch_embedding = PatchEmbedding(config)
        self.position_embedding = nn.Embedding(config.num_patches, config.hidden_size)

    def forward(self, pixels_TCSS: Tensor) -> Tensor:
        """``(T, C, S, S)`` pixels, uint8 or in [-1, 1], to ``(T, N, D)``."""
        if pixels_TCSS.dtype == torch.uint8:
            pixels_TCSS = pixels_TCSS.float() * (2 / 255) - 1
        pixels_TCSS = pixels_TCSS.to(self.patch_embedding.weight.dtype)
        return self.patch_embedding(pixels_TCSS) + self.position_embedding.weight


class SelfAttention(nn.Module):
    """Bidirectional attention between all patches of a tile."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        width = config.hidden_size
        self.num_heads = config.num_attention_heads
        self.q_proj = nn.Linear(width, width)
        self.k_proj = nn.Linear(width, width)
        self.v_proj = nn.Linear(width, width)
        self.out_proj = nn.Linear(width, width)

    def forward(self, x_TND: Tensor) -> Tensor:
        """``(T, N, D)`` to ``(T, N, D)``."""
        tiles, patches, width = x_TND.shape
        q, k, v = (
            part.view(tiles, patches, self.num_heads, -1).transpose(1, 2)
            for part in fused_linear(x_TND, self.q_proj, self.k_proj, self.v_proj)
        )
        out = F.scaled_dot_product_attention(q, k, v)
        return self.out_proj(out.transpose(1, 2).reshape(tiles, patches, width))


class FeedForward(nn.Module):
    """Two linear layers with the tanh form of GELU between them."""

    fused_gelu = False
    """Whether a frozen layer on CUDA lets the first product apply GELU: saves writing and reading
    the widest tensor of a block once. It has no backward pass."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.fc1 = nn.Linear(config.hidden_size, config.intermediate_size)
        self.fc2 = nn.Linear(config.intermediate_size, config.hidden_size)

    def forward(self, x_TND: Tensor) -> Tensor:
        """``(T, N, D)`` to ``(T, N, D)``."""
        frozen = not (x_TND.requires_grad or self.fc1.weight.requires_grad)
        if self.fused_gelu and frozen and x_TND.is_cuda:
            # The CPU's version of this product applies the erf form.
            wide = torch._addmm_activation(
                self.fc1.bias, x_TND.flatten(0, 1), self.fc1.weight.t(), use_gelu=True
            )
            return self.fc2(wide.unflatten(0, x_TND.shape[:2]))
        return self.fc2(F.gelu(self.fc1(x_TND), approximate="tanh"))


class EncoderLayer(nn.Module):
    """One pre-norm transformer block; the unit of checkpointing, compilation and sharding."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.layer_norm1 = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.self_attn = SelfAttention(config)
        self.layer_norm2 = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.mlp = FeedForward(config)

    def forward(self, x_TND: Tensor) -> Tensor:
        """``(T, N, D)`` to ``(T, N, D)``."""
        x_TND = x_TND + self.self_attn(self.layer_norm1(x_TND))
        return x_TND + self.mlp(self.layer_norm2(x_TND))


class Encoder(nn.Module):
    """The stack of blocks, a module of its own so that names equal the published ones."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.layers = nn.ModuleList(EncoderLayer(config) for _ in range(config.num_hidden_layers))

    def forward(self, x_TND: Tensor) -> Tensor:
        """``(T, N, D)`` to ``(T, N, D)``."""
        for layer in self.layers:
            x_TND = layer(x_TND)
        return x_TND


class VisionEncoder(nn.Module):
    """Tiles to patch features, after the last layer norm; SigLIP's pooling head is left out."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.config = config
        self.embeddings = Embeddings(config)
        self.encoder = Encoder(config)
        self.post_layernorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    def forward(self, pixel_values: Tensor) -> Tensor:
        """Encode tiles.

        Args:
            pixel_values: ``(T, C, S, S)``; uint8 in 0 .. 255 is scaled to [-1, 1] here, floats
                are taken as already normalised.

        Returns:
            ``(T, N, D)``.

        Raises:
            ValueError: The tiles have another side or number of channels than the encoder.
        """
        side, channels = self.config.image_size, self.config.num_channels
        if pixel_values.shape[1:] != (channels, side, side):
            raise ValueError(
                f"pixel_values are {tuple(pixel_values.shape)}, expected (T, {channels}, {side}, "
                f"{side}): this encoder reads tiles of {side} px"
            )
        return self.post_layernorm(self.encoder(self.embeddings(pixel_values)))
