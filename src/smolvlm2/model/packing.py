"""A padded batch as one packed sequence: the only form in which the model computes.

Shapes: B rows, M columns of the padded batch, L real tokens of all rows together, T tiles.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from smolvlm2.errors import PromptError

IGNORED_LABEL = -100
"""Label of tokens without loss, as in transformers."""


@dataclass(kw_only=True)
class PackedBatch:
    """The real tokens of a padded batch, one document a row."""

    input_ids: Tensor
    """``(L,)``."""
    positions: Tensor
    """``(L,)`` position in the document, from 0."""
    document_ids: Tensor
    """``(L,)`` row of each token."""
    cu_seqlens: Tensor
    """``(B + 1,)`` int32 bounds of the documents."""
    max_length: int
    """Tokens of the longest document."""
    cells: Tensor
    """``(L,)`` index of each token in the flattened ``(B, M)`` batch."""

    @classmethod
    def from_padded(cls, input_ids: Tensor, attention_mask: Tensor | None) -> "PackedBatch":
        """Drop the padding of ``(B, M)`` ids; ``attention_mask`` is 1 at real tokens.

        Raises:
            PromptError: A row holds no token.
        """
        if attention_mask is None:
            attention_mask = torch.ones_like(input_ids)
        real = attention_mask.bool()
        lengths = real.sum(dim=1)
        if not bool((lengths > 0).all()):
            row = int((lengths == 0).nonzero()[0])
            raise PromptError(f"row {row} of the batch is empty; every row needs a token")
        cells = real.flatten().nonzero().squeeze(1)
        rows = torch.arange(len(input_ids), device=input_ids.device)
        cu_seqlens = torch.nn.functional.pad(lengths.cumsum(0), (1, 0)).int()
        return cls(
            input_ids=input_ids.flatten()[cells],
            positions=(real.cumsum(1) - 1).flatten()[cells],
            document_ids=rows.repeat_interleave(lengths),
            cu_seqlens=cu_seqlens,
            max_length=int(lengths.max()),
            cells=cells,
        )

    def unpack(self, values: Tensor, shape: torch.Size) -> Tensor:
        """``(L, ...)`` back to ``(B, M, ...)`` with zeros at the padding."""
        out = values.new_zeros(shape.numel(), *values.shape[1:])
        return out.index_copy(0, self.cells, values).view(*shape, *values.shape[1:])

    def supervision(self, labels: Tensor, *, chunk: int) -> tuple[Tensor, Tensor, Tensor]:
        """Where the loss is taken, as `SmolVLM.forward` expects it.

        Args:
            labels: ``(B, M)``; `IGNORED_LABEL` marks tokens without loss. A token is predicted
                from the one before it, so the first of a document is never a target.
            chunk: Columns of the result.

        Returns:
            ``loss_positions``, ``loss_targets`` (int64) and ``loss_weights`` (float32), each
            ``(chunks, chunk)``; filler has weight 0.
        """
        flat = labels.flatten()[self.cells]
        targets_at = ((flat != IGNORED_LABEL) & (self.positions > 0)).nonzero().squeeze(1)
        chunks = max(1, -(-len(targets_at) // chunk))
        filler = (0, chunks * chunk - len(targets_at))
        pad = torch.nn.functional.pad
        weights = torch.ones(len(targets_at), device=labels.device)
        return (
            pad(targets_at - 1, filler).view(chunks, chunk),
            pad(flat[targets_at], filler).view(chunks, chunk),
            pad(weights, filler).view(chunks, chunk),
        )


def flat_tiles(
    pixel_values: Tensor,
    input_ids: Tensor,
    image_token_id: int,
    tokens: int,
    pixel_attention_mask: Tensor | None = None,
) -> Tensor:
    """Tiles in the order of their visual tokens.

    Args:
        pixel_values: ``(T, 3, S, S)``, or ``(B, N, 3, S, S)`` where a row's real tiles come first.
        input_ids: ``(B, M)``.
        image_token_id: Id of ``<image>``.
        tokens: Visual tokens of one tile.
        pixel_attention_mask: ``(B, N, S, S)`` of transformers' processors. Tiles are whole, and
            which of them are real the ids say; it is only looked through.

    Returns:
        ``(T, 3, S, S)``.

    Raises:
        PromptError: The tiles do not match the ``<image>`` tokens, or are masked in part.
    """
    if pixel_attention_mask is not None:
        lowest, highest = pixel_attention_mask.flatten(2).aminmax(dim=2)
        if not torch.equal(lowest, highest):
            raise PromptError(
                "pixel_attention_mask masks a part of a tile; expected whole tiles, as the "
                "processors of SmolVLM make them: resize images instead of padding them"
            )
    wanted = (input_ids == image_token_id).sum(dim=1)
    if pixel_values.ndim == 5:
        tiles = wanted // tokens
        if bool((tiles > pixel_values.shape[1]).any()):
            row = int((tiles > pixel_values.shape[1]).nonzero()[0])
            raise PromptError(
                f"row {row} has {int(wanted[row])} <image> tokens, enough for {int(tiles[row])} "
                f"tiles of {tokens}, but pixel_values hold {pixel_values.shape[1]} tiles a row"
            )
        real = torch.arange(pixel_values.shape[1], device=wanted.device) < tiles[:, None]
        pixel_values = pixel_values[real]
    if int(wanted.sum()) != len(pixel_values) * tokens:
        raise PromptError(
            f"{int(wanted.sum())} <image> tokens but {len(pixel_values)} tiles of {tokens} visual "
            f"tokens each; build both with the same Processor"
        )
    return pixel_values
