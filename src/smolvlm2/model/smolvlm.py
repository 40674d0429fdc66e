"""The composed model: vision encoder, connector, text decoder, language model head.

Shapes: B rows, M columns of a padded batch, L tokens of a packed sequence, T tiles, K visual
tokens of a tile, D features, V vocabulary, S side of a tile in pixels.
"""

from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from smolvlm2.model.attention import Attention, Backend, DocumentAttention
from smolvlm2.model.config import SmolVLMConfig
from smolvlm2.model.loss import supervised_cross_entropy
from smolvlm2.model.packing import PackedBatch, flat_tiles
from smolvlm2.model.pixel_shuffle import Connector
from smolvlm2.model.text_decoder import TextDecoder
from smolvlm2.model.vision_encoder import VisionEncoder

LOSS_CHUNK = 512
"""Supervised positions whose logits exist at one time."""


class SmolVLMOutput(NamedTuple):
    """What a forward pass gives; fields that were not asked for are None.

    A tuple, not a dataclass: torch < 2.13 finds tensors in tuples only, and FSDP2 must find these,
    or it never learns that a backward pass began and goes on with the weights of the first step.
    """

    logits: Tensor | None = None
    """``(B, M, V)`` or ``(L, V)``; zeros at padding."""
    loss: Tensor | None = None
    """Mean over the supervised tokens, nats; 0 when there are none."""
    loss_sum: Tensor | None = None
    """Weighted sum over the supervised tokens, nats, fp32."""
    num_tokens: Tensor | None = None
    """Sum of the loss weights; with ``labels``, the number of supervised tokens."""
    token_losses: Tensor | None = None
    """``(chunks, C)`` detached loss of each target, nats."""


class SmolVLM(nn.Module):
    """A SmolVLM2: reads tiles and tokens, predicts the next token.

    The module knows nothing of data, ranks or stages; those are applied from outside.
    """

    attention_backend: Backend | None = None
    """Of the text decoder's attention inside documents; None: `choose_backend`."""

    def __init__(self, config: SmolVLMConfig) -> None:
        super().__init__()
        self.config = config
        self.vision_encoder = VisionEncoder(config.vision)
        self.connector = Connector(config)
        self.text_decoder = TextDecoder(config.text)
        self.lm_head = nn.Linear(config.text.hidden_size, config.text.vocab_size, bias=False)
        self.tie_weights()

    def tie_weights(self) -> None:
        """Let the head share the embedding's parameter, if the configuration says so."""
        if self.config.tie_word_embeddings:
            self.lm_head.weight = self.text_decoder.embed_tokens.weight

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return self.lm_head.weight.device

    @property
    def dtype(self) -> torch.dtype:
        """Type of the parameters."""
        return self.lm_head.weight.dtype

    def forward(
        self,
        input_ids: Tensor,
        pixel_values: Tensor | None = None,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        *,
        pixel_attention_mask: Tensor | None = None,
        return_logits: bool | None = None,
        positions: Tensor | None = None,
        document_ids: Tensor | None = None,
        cu_seqlens: Tensor | None = None,
        max_length: int | None = None,
        tile_slots: Tensor | None = None,
        loss_positions: Tensor | None = None,
        loss_targets: Tensor | None = None,
        loss_weights: Tensor | None = None,
    ) -> SmolVLMOutput:
        """Predict, and with targets take the loss.

        Two forms of input. *Padded*, as transformers users know it: ``input_ids`` ``(B, M)``.
        *Packed*, as training uses it: ``input_ids`` ``(L,)`` and the keyword arguments below.

        Args:
            input_ids: ``(B, M)`` or ``(L,)`` int64.
            pixel_values: ``(T, 3, S, S)`` or, padded form only, ``(B, N, 3, S, S)``; uint8, or
                normalised float. None without images.
            attention_mask: ``(B, M)``, 1 at real tokens; None when there is no padding.
            labels: ``(B, M)`` ids, -100 at tokens without loss; shifted here, as in transformers.
            pixel_attention_mask: ``(B, N, S, S)``, as transformers' processors give it; tiles are
                whole, so nothing follows from it.
            return_logits: Whether to compute all logits; default: only without targets.
            positions: ``(L,)`` position of each token in its document.
            document_ids: ``(L,)`` document of each token.
            cu_seqlens: ``(documents + 1,)`` int32 bounds of the documents.
            max_length: Upper bound of a document's length, in tokens.
            tile_slots: ``(T * K,)`` position of each visual token; L for those of blank tiles.
            loss_positions: ``(chunks, C)`` position that predicts each target.
            loss_targets: ``(chunks, C)`` target ids.
            loss_weights: ``(chunks, C)`` float weight of each target; 0 for filler.

        Raises:
            PromptError: Tiles and ``<image>`` tokens do not match, or tiles are masked in part.
        """
        if input_ids.ndim == 1:
            if positions is None or cu_seqlens is None:
                raise ValueError("packed input_ids (L,) need positions and cu_seqlens")
            attention = DocumentAttention(
                cu_seqlens,
                max_length=max_length or len(input_ids),
                dtype=self.dtype,
                backend=self.attention_backend,
                document_ids=document_ids,
            )
            hidden_LD = self.hidden_states(
                input_ids, positions, attention, pixel_values, tile_slots
            )
            targets = (loss_positions, loss_targets, loss_weights)
            return self._output(hidden_LD, targets, return_logits)
        packed, tiles, slots = self.pack(
            input_ids, attention_mask, pixel_values, pixel_attention_mask
        )
        attention = DocumentAttention(
            packed.cu_seqlens,
            max_length=packed.max_length,
            dtype=self.dtype,
            backend=self.attention_backend,
            document_ids=packed.document_ids,
            constant_shapes=False,
        )
        hidden_LD = self.hidden_states(packed.input_ids, packed.positions, attention, tiles, slots)
        targets = (None, None, None)
        if labels is not None:
            targets = packed.supervision(labels, chunk=LOSS_CHUNK)
        output = self._output(hidden_LD, targets, return_logits)
        if output.logits is not None:
            output = output._replace(logits=packed.unpack(output.logits, input_ids.shape))
        return output

    def pack(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None,
        pixel_values: Tensor | None,
        pixel_attention_mask: Tensor | None = None,
    ) -> tuple[PackedBatch, Tensor | None, Tensor | None]:
        """A padded batch as packed tokens, flat tiles ``(T, 3, S, S)`` and their slots."""
        packed = PackedBatch.from_padded(input_ids, attention_mask)
        image_id = self.config.image_token_id
        if pixel_values is None:
            pixel_values = packed.input_ids.new_empty((0, 3, 0, 0))
        tokens = self.config.tokens_per_tile
        tiles = flat_tiles(pixel_values, input_ids, image_id, tokens, pixel_attention_mask)
        if not len(tiles):
            return packed, None, None
        return packed, tiles, (packed.input_ids == image_id).nonzero().squeeze(1)

    def hidden_states(
        self,
        input_ids_L: Tensor,
        positions_L: Tensor,
        attention: Attention,
        pixel_values: Tensor | None = None,
        tile_slots: Tensor | None = None,
    ) -> Tensor:
        """Final hidden states ``(L, D)`` of packed tokens.

        Features of blank tiles go to a scratch row past the end, which is cut off: the encoder
        stays on the gradient's path with zero gradient, so that every rank runs the same
        collectives however many images it has.
        """
        x_LD = self.text_decoder.embed_tokens(input_ids_L)
        if pixel_values is not None and tile_slots is not None:
            visual_TKD = self.connector(self.vision_encoder(pixel_values))
            scratch = x_LD.new_zeros(1, x_LD.shape[1])
            joined = torch.cat([x_LD, scratch])
            joined = joined.index_copy(0, tile_slots, visual_TKD.flatten(0, 1).to(x_LD.dtype))
            x_LD = joined[: len(x_LD)]
        return self.text_decoder(x_LD, positions_L, attention)

    def _output(
        self,
        hidden_LD: Tensor,
        targets: tuple[Tensor | None, Tensor | None, Tensor | None],
        return_logits: bool | None,
    ) -> SmolVLMOutput:
        output = SmolVLMOutput()
        loss_positions, loss_targets, loss_weights = targets
        if loss_positions is not None and loss_targets is not None and loss_weights is not None:
            loss_sum, token_losses = supervised_cross_entropy(
                hidden_LD, self.lm_head, loss_positions, loss_targets, loss_weights
            )
            num_tokens = loss_weights.sum()
            output = SmolVLMOutput(
                loss=loss_sum / num_tokens.clamp(min=1e-9),
                loss_sum=loss_sum,
                num_tokens=num_tokens,
                token_losses=token_losses,
            )
        if return_logits or (return_logits is None and output.loss is None):
            output = output._replace(logits=self.lm_head(hidden_LD))
        return output

    def generate(self, input_ids: Tensor, **options: Any) -> list[list[int]]:
        """Continue prompts; see `smolvlm2.model.generation.generate`."""
        from smolvlm2.model.generation import generate

        return generate(self, input_ids, **options)

    @classmethod
    def from_random(
        cls,
        config: SmolVLMConfig,
        *,
        seed: int,
        dtype: torch.dtype = torch.float32,
        device: str | torch.device = "cpu",
    ) -> "SmolVLM":
        """A model with random weights from its own generator; no global random state is touched.

        A GPU's generator draws others than a CPU's.
        """
        from smolvlm2.model.initialisation import random_model

        return random_model(config, seed=seed, dtype=dtype, device=device)

    @classmethod
    def from_pretrained(
        cls,
        path_or_repo: str | Path,
        *,
        dtype: torch.dtype | str | None = None,
        device: str | torch.device = "cpu",
    ) -> "SmolVLM":
        """Load a checkpoint; see `smolvlm2.model.hf_format.load_model`."""
        from smolvlm2.model.hf_format import load_model

        return load_model(path_or_repo, dtype=dtype, device=device)

    def save_pretrained(self, folder: str | Path) -> None:
        """Write Hugging Face files; see `smolvlm2.model.hf_format.save_model`."""
        from smolvlm2.model.hf_format import save_model

        save_model(self, folder)
