"""From encoder patches to visual tokens: pixel shuffle and one linear layer.

Shapes: T tiles, N patches of a tile, D features.
"""

import math

from torch import Tensor, nn

from smolvlm2.model.config import SmolVLMConfig


def pixel_shuffle(patches_TND: Tensor, *, ratio: int) -> Tensor:
    """Fold each ``ratio x ratio`` square of patches into one wider visual token.

    Args:
        patches_TND: ``(T, N, D)`` encoder features in row-major order; ``N`` is a square.
        ratio: Patches per side of a square, no unit; 3 means 9 times fewer tokens.

    Returns:
        ``(T, N / ratio**2, D * ratio**2)``. Channels run over the row in the square, then the
        column, then the feature: the connector's weights depend on this order.

    Raises:
        ValueError: ``N`` is not a square, or its root is not a multiple of ``ratio``.

    Source:
        arXiv:2504.05299, section 3; equal to transformers' SmolVLM connector
        (tests/model/test_pixel_shuffle.py). ``torch.nn.PixelUnshuffle`` orders channels otherwise.
    """
    tiles, patches, width = patches_TND.shape
    side = math.isqrt(patches)
    if side * side != patches or side % ratio:
        raise ValueError(
            f"pixel shuffle ratio {ratio} does not fit {patches} patches a tile; their number "
            f"must be the square of a multiple of the ratio"
        )
    rows = side // ratio
    squares = patches_TND.view(tiles, rows, ratio, rows, ratio, width).transpose(2, 3)
    return squares.reshape(tiles, rows * rows, ratio * ratio * width)


class Connector(nn.Module):
    """Pixel shuffle, then a linear layer without bias into the text decoder's width."""

    def __init__(self, config: SmolVLMConfig) -> None:
        super().__init__()
        self.ratio = config.scale_factor
        self.proj = nn.Linear(
            config.vision.hidden_size * self.ratio**2, config.text.hidden_size, bias=False
        )

    def forward(self, patches_TND: Tensor) -> Tensor:
        """``(T, N, D_vision)`` features to ``(T, N / r**2, D_text)`` visual tokens."""
        return self.proj(pixel_shuffle(patches_TND, ratio=self.ratio))
