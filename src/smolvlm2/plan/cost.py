"""What a sample costs, in FLOPs: the encoder's tiles, the decoder's tokens, attention, the head."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(kw_only=True, frozen=True)
class CostModel:
    """Useful FLOPs of one training step, by what causes them; recomputation is not counted."""

    tile: int = 213_808_840_704
    """Forward pass of the vision encoder for one tile. Defaults: 256M at 512 px."""
    connector: int = 2_717_908_992
    """Forward and backward pass of the connector for one tile's visual tokens."""
    token: int = 637_009_920
    """Forward and backward pass of the decoder's linear layers for one token."""
    pair: int = 103_680
    """Forward and backward pass of the decoder's causal attention, for each token of a document
    and each of its tokens: the sum of squared document lengths counts."""
    supervised: int = 170_311_680
    """Forward and backward pass of the language model head for one token with loss."""

    def cost(
        self,
        tiles: NDArray[np.int64],
        tokens: NDArray[np.int64],
        squared: NDArray[np.int64],
        supervised: NDArray[np.int64],
        *,
        frozen: bool,
    ) -> NDArray[np.int64]:
        """FLOPs of samples or packs.

        Args:
            tiles: ``(n,)`` tiles.
            tokens: ``(n,)`` tokens.
            squared: ``(n,)`` sums of squared document lengths; of a sample, its tokens squared.
            supervised: ``(n,)`` tokens with loss.
            frozen: Whether the vision encoder is; its backward pass costs twice the forward pass.
        """
        tile = self.tile * (1 if frozen else 3) + self.connector
        decoder = tokens * self.token + squared * self.pair + supervised * self.supervised
        return tiles * tile + decoder

    def useful_flops(
        self, tiles: float, tokens: float, squared: float, supervised: float, *, frozen: bool
    ) -> float:
        """What a step has to compute, nothing twice and nothing for filler: the numerator of MFU.

        Unlike `cost`, which orders packs, it leaves out what a frozen encoder saves the connector:
        the gradient of its input.

        Args:
            tiles: Tiles.
            tokens: Tokens.
            squared: Sum of squared document lengths.
            supervised: Tokens with loss.
            frozen: Whether the vision encoder is.
        """
        passes = 1 if frozen else 3
        connector = self.connector * (2 / 3 if frozen else 1)
        decoder = tokens * self.token + squared * self.pair + supervised * self.supervised
        return tiles * (self.tile * passes + connector) + decoder


def model_cost(
    *,
    patches: int,
    patch_values: int,
    vision_width: int,
    vision_feed_forward: int,
    vision_layers: int,
    tokens_per_tile: int,
    text_width: int,
    text_feed_forward: int,
    text_layers: int,
    query_width: int,
    key_value_width: int,
    vocabulary: int,
) -> CostModel:
    """Costs from a model's shapes.

    A product of ``(a, b)`` and ``(b, c)`` counts 2abc; a backward pass twice its forward pass;
    causal attention half of a full one. Norms, activations and the embedding count nothing.

    Args:
        patches: Of a tile.
        patch_values: Numbers in a patch: channels x side x side.
        vision_width: Features of a patch.
        vision_feed_forward: Width of the encoder's feed-forward layer.
        vision_layers: Of the encoder.
        tokens_per_tile: Visual tokens of a tile.
        text_width: Features of a token.
        text_feed_forward: Width of the decoder's gated feed-forward layer.
        text_layers: Of the decoder.
        query_width: Heads x width of a head.
        key_value_width: Key-value heads x width of a head.
        vocabulary: Rows of the head.

    Source:
        Figures to compare with: 214 GFLOP a tile of 512 px, 54 for its tokens (256M).
    """
    block = 4 * vision_width**2 + 2 * vision_width * vision_feed_forward
    encoder = vision_layers * (2 * patches * block + 4 * patches**2 * vision_width)
    encoder += 2 * patches * patch_values * vision_width
    layer = text_width * (2 * query_width + 2 * key_value_width + 3 * text_feed_forward)
    return CostModel(
        tile=encoder,
        connector=6 * patches * vision_width * text_width,
        token=6 * text_layers * layer,
        pair=6 * text_layers * query_width,
        supervised=6 * text_width * vocabulary,
    )
