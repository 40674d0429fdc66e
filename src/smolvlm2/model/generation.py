"""Batched generation with a key and value cache; rows that are finished leave the batch."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from smolvlm2.errors import PromptError
from smolvlm2.model.attention import DocumentAttention, KeyValueCache

if TYPE_CHECKING:
    from smolvlm2.model.smolvlm import SmolVLM


@torch.no_grad()
def generate(
    model: "SmolVLM",
    input_ids: Tensor,
    *,
    attention_mask: Tensor | None = None,
    pixel_values: Tensor | None = None,
    max_new_tokens: int = 64,
    min_new_tokens: int = 0,
    temperature: float = 0.0,
    top_p: float = 1.0,
    stop_token_ids: Sequence[int] | None = None,
    seed: int = 0,
) -> list[list[int]]:
    """Continue each row of a padded batch.

    Args:
        model: The model, in eval mode or not: there is no dropout.
        input_ids: ``(B, M)`` prompts, padded on either side.
        attention_mask: ``(B, M)``, 1 at real tokens.
        pixel_values: Tiles of all rows, as for ``SmolVLM.forward``.
        max_new_tokens: Upper bound of new tokens a row; the context length bounds it too.
        min_new_tokens: Stop tokens are not chosen before so many tokens of a row.
        temperature: 0 for the most likely token (greedy), else the softmax temperature.
        top_p: Sample from the smallest set of tokens with at least this probability, in (0, 1].
        stop_token_ids: Ids that end a row; default: the configuration's end-of-utterance id.
        seed: Seed of sampling; a row's text does not depend on when other rows finish.

    Returns:
        New token ids of each row, without the stop token.

    Raises:
        PromptError: A prompt is as long as the model's context or longer.
        ValueError: ``temperature`` or ``top_p`` out of range.
    """
    if temperature < 0 or not 0 < top_p <= 1:
        raise ValueError(
            f"temperature is {temperature} and top_p {top_p}; expected temperature >= 0 and "
            f"0 < top_p <= 1"
        )
    stops = set(stop_token_ids if stop_token_ids is not None else [model.config.eos_token_id])
    input_ids = torch.as_tensor(input_ids, device=model.device)
    if attention_mask is not None:
        attention_mask = torch.as_tensor(attention_mask, device=model.device)
    if pixel_values is not None:
        pixel_values = torch.as_tensor(pixel_values, device=model.device)
    packed, tiles, slots = model.pack(input_ids, attention_mask, pixel_values)
    text, context = model.config.text, model.config.text.max_position_embeddings
    if packed.max_length >= context:
        raise PromptError(
            f"the longest prompt has {packed.max_length} tokens and the model's context is "
            f"{context}; shorten the text or use fewer tiles or frames"
        )
    cache = KeyValueCache(
        layers=text.num_hidden_layers,
        lengths=packed.cu_seqlens.diff().tolist(),
        max_new_tokens=min(max_new_tokens, context - packed.max_length),
        heads=text.num_key_value_heads,
        head_dim=text.head_dim,
        device=model.device,
        dtype=model.dtype,
    )
    attention = DocumentAttention(
        packed.cu_seqlens,
        max_length=packed.max_length,
        dtype=model.dtype,
        document_ids=packed.document_ids,
    )
    hidden_LD = model.hidden_states(
        packed.input_ids, packed.positions, cache.prefill(attention), tiles, slots
    )
    hidden_BD = hidden_LD[packed.cu_seqlens[1:].long() - 1]
    # One number a row and step, drawn for all rows, so that leaving rows change nothing.
    generator = torch.Generator().manual_seed(seed)
    answers: list[list[int]] = [[] for _ in input_ids]
    alive = torch.arange(len(input_ids), device=model.device)
    room = min(max_new_tokens, context - packed.max_length)
    for step in range(room):
        draw_B = torch.rand(len(input_ids), generator=generator).to(model.device)
        logits_BV = model.lm_head(hidden_BD)
        if step < min_new_tokens:
            logits_BV[:, list(stops)] = -torch.inf
        tokens_B = _next_tokens(logits_BV, draw_B[alive], temperature, top_p)
        going = []
        for index, (row, token) in enumerate(zip(alive.tolist(), tokens_B.tolist(), strict=True)):
            if token not in stops:
                answers[row].append(token)
                going.append(index)
        if not going or step == room - 1:
            break
        if len(going) < len(alive):
            kept = torch.tensor(going, device=model.device)
            alive, tokens_B = alive[kept], tokens_B[kept]
            cache.keep(kept)
        hidden_BD = model.hidden_states(tokens_B, cache.lengths, cache.step())
        cache.lengths = cache.lengths + 1
    return answers


def _next_tokens(logits_BV: Tensor, draw_B: Tensor, temperature: float, top_p: float) -> Tensor:
    """One token a row: the most likely, or by inverse transform of ``draw_B`` in [0, 1)."""
    if temperature == 0:
        return logits_BV.argmax(dim=-1)
    probabilities = (logits_BV.float() / temperature).softmax(dim=-1)
    ordered, ids = probabilities.sort(dim=-1, descending=True, stable=True)
    before = ordered.cumsum(dim=-1) - ordered
    ordered = ordered * (before < top_p)
    cumulative = ordered.cumsum(dim=-1)
    threshold = draw_B[:, None].to(cumulative.dtype) * cumulative[:, -1:]
    choice = torch.searchsorted(cumulative, threshold, right=True)
    last = (ordered > 0).sum(dim=-1, keepdim=True) - 1
    return ids.gather(1, choice.minimum(last)).squeeze(1)
