"""mlx-vlm's SmolVLM, fed with tiles and slots instead of padded pixels and masks.

Shapes: B rows, L tokens, T tiles, K visual tokens of a tile, D features, V vocabulary, S side of a
tile in pixels, P supervised positions.
"""

from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx_vlm.models import smolvlm
from mlx_vlm.models.base import InputEmbeddingsFeatures, create_attention_mask

from smolvlm2.errors import PromptError
from smolvlm2.model.config import SmolVLMConfig

TILE_CHUNK = 4
"""Tiles that pass the vision encoder together; more need more memory (``memory.py``)."""
LOSS_CHUNK = 256
"""Supervised positions whose logits exist at one time."""
IGNORED_LABEL = -100


class SmolVLM(smolvlm.Model):
    """The model of mlx-vlm with three things of our own.

    Tiles are whole, so positions of patches are counted and not computed from a mask in float32;
    tiles pass the encoder in chunks; the head can be applied at chosen positions only.
    """

    def __init__(self, config: SmolVLMConfig) -> None:
        """Build with random weights; ``checkpoint.load`` fills them.

        Args:
            config: Shapes, read from a ``config.json`` in whichever spelling it has.
        """
        hf = config.to_hf()
        super().__init__(
            smolvlm.ModelConfig(
                text_config=smolvlm.TextConfig.from_dict(hf["text_config"]),
                vision_config=smolvlm.VisionConfig.from_dict(hf["vision_config"]),
                model_type="smolvlm",
                vocab_size=config.text.vocab_size,
                scale_factor=config.scale_factor,
                image_token_id=config.image_token_id,
                eos_token_id=[config.eos_token_id],
            )
        )
        self.shapes = config
        # mlx-vlm leaves this one at 1e-5.
        self.vision_model.post_layernorm.eps = config.vision.layer_norm_eps

    def visual_tokens(self, tiles: np.ndarray | mx.array) -> mx.array:
        """Encode tiles, without a gradient: the encoder and the connector stay frozen.

        Args:
            tiles: uint8 ``(T, 3, S, S)``.

        Returns:
            ``(T * K, D)`` in the order of the ``<image>`` tokens, evaluated.
        """
        weight = self.vision_model.embeddings.patch_embedding.weight
        parts = []
        for start in range(0, len(tiles), TILE_CHUNK):
            tiles_TCSS = mx.array(tiles[start : start + TILE_CHUNK]).astype(mx.float32)
            tiles_TSSC = (tiles_TCSS * (2 / 255) - 1).transpose(0, 2, 3, 1)
            hidden, *_ = self.vision_model(tiles_TSSC.astype(weight.dtype))
            tokens_TKD = self.connector(hidden)
            # Evaluated chunk by chunk: otherwise the activations of all tiles exist together.
            mx.eval(tokens_TKD)
            parts.append(tokens_TKD.reshape(-1, tokens_TKD.shape[-1]))
        return mx.stop_gradient(mx.concatenate(parts))

    def embed(
        self, input_ids: mx.array, visual: mx.array | None = None, slots: mx.array | None = None
    ) -> mx.array:
        """Embed tokens and put visual tokens in their places.

        Args:
            input_ids: ``(B, L)``.
            visual: ``(T * K, D)``.
            slots: ``(T * K,)`` places in the flattened ``B * L``.

        Returns:
            ``(B, L, D)``.
        """
        embedded = self.language_model.embed_tokens(input_ids)
        if visual is None:
            return embedded
        flat = embedded.reshape(-1, embedded.shape[-1])
        flat[slots] = visual.astype(flat.dtype)
        return flat.reshape(embedded.shape)

    def hidden_states(self, embedded_BLD: mx.array, *, checkpointing: bool = False) -> mx.array:
        """Run the text decoder causally, up to its final norm.

        No padding mask: rows are filled up on the right, where no real token looks. A mask given
        to mlx-vlm would replace the causal one.

        Args:
            embedded_BLD: Of ``embed``.
            checkpointing: Keep a layer's input only, and compute the rest again in the backward
                pass.
        """
        hidden = embedded_BLD.astype(self.language_model.norm.weight.dtype)
        mask = create_attention_mask(hidden)
        for layer in self.language_model.layers:
            hidden = (nn.utils.checkpoint(layer) if checkpointing else layer)(hidden, mask)
        return self.language_model.norm(hidden)

    def loss_sum(self, hidden_BLD: mx.array, positions: mx.array, targets: mx.array) -> mx.array:
        """Cross-entropy summed over the supervised tokens, in nats, float32.

        Args:
            hidden_BLD: Of ``hidden_states``.
            positions: ``(P,)`` places in the flattened ``B * L`` that predict the targets.
            targets: ``(P,)`` ids.
        """
        flat = hidden_BLD.reshape(-1, hidden_BLD.shape[-1])
        head = self.language_model.lm_head

        def chunk_loss(hidden_PD: mx.array, targets_P: mx.array) -> mx.array:
            # Targets by closure: mlx would look for a gradient by every argument.
            def loss(rows: mx.array) -> mx.array:
                logits_PV = head(rows).astype(mx.float32)
                return nn.losses.cross_entropy(logits_PV, targets_P, reduction="sum")

            return mx.checkpoint(loss)(hidden_PD)

        total = mx.zeros(())
        for start in range(0, len(positions), LOSS_CHUNK):
            span = slice(start, start + LOSS_CHUNK)
            total = total + chunk_loss(flat[positions[span]], targets[span])
        return total

    def get_input_embeddings(
        self, input_ids: mx.array, pixel_values: Any = None, **_: Any
    ) -> InputEmbeddingsFeatures:
        """What mlx-vlm's decoding asks for; ``pixel_values`` are uint8 tiles ``(T, 3, S, S)``.

        Raises:
            PromptError: Tiles and ``<image>`` tokens do not match.
        """
        if pixel_values is None or not len(pixel_values):
            return InputEmbeddingsFeatures(inputs_embeds=self.embed(input_ids))
        slots = np.flatnonzero(np.asarray(input_ids) == self.shapes.image_token_id)
        expected = len(pixel_values) * self.shapes.tokens_per_tile
        if len(slots) != expected:
            raise PromptError(
                f"the prompt has {len(slots)} <image> tokens and {len(pixel_values)} tiles of "
                f"{self.shapes.tokens_per_tile} tokens, which want {expected}; the processor is "
                f"another model's"
            )
        visual = self.visual_tokens(pixel_values)
        return InputEmbeddingsFeatures(inputs_embeds=self.embed(input_ids, visual, mx.array(slots)))

    def __call__(
        self,
        input_ids: mx.array,
        pixel_values: Any = None,
        mask: mx.array | None = None,
        cache: Any = None,
        **_: Any,
    ) -> Any:
        """Logits ``(B, L, V)`` as mlx-vlm gives them, in ``.logits``."""
        embedded = self.get_input_embeddings(input_ids, pixel_values).inputs_embeds
        return self.language_model(input_ids, embedded, mask=mask, cache=cache)
