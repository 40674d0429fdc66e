"""Batched generation with a key and value cache; rows that are finished leave the batch.

Shapes: B rows still going, D features, H query heads, K key and value heads, E features of a head,
G query heads of a key head, S positions held for a row, V vocabulary, T tiles.
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from smolvlm2.errors import PromptError
from smolvlm2.model.attention import DocumentAttention, KeyValueCache
from smolvlm2.model.packing import PackedBatch, flat_tiles
from smolvlm2.model.text_decoder import rotary_angles, rotate

if TYPE_CHECKING:
    from smolvlm2.model.smolvlm import SmolVLM

COLDEST = 1e-6
"""Temperature below which the likeliest token is taken: logits divided by less overflow."""
TILE_CHUNK = 64
"""Tiles encoded at one time: bounds the memory of long clips."""


@torch.no_grad()
def generate(
    model: "SmolVLM",
    input_ids: Tensor,
    *,
    attention_mask: Tensor | None = None,
    pixel_values: Tensor | None = None,
    pixel_attention_mask: Tensor | None = None,
    tile_index: Tensor | None = None,
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
        pixel_attention_mask: As for ``SmolVLM.forward``; not with ``tile_index``.
        tile_index: ``(n,)`` which of ``pixel_values`` ``(T, 3, S, S)`` each tile of the prompts
            is, in order: a picture that several rows show is then encoded once. None: all, once.
        max_new_tokens: Upper bound of new tokens a row; the context length bounds it too.
        min_new_tokens: Stop tokens are not chosen before so many tokens of a row.
        temperature: 0 for the most likely token (greedy), else the softmax temperature.
        top_p: Sample from the smallest set of tokens with at least this probability, in (0, 1].
        stop_token_ids: Ids that end a row; default: the configuration's end-of-utterance id.
        seed: Seed of sampling; a row's text does not depend on when other rows finish.

    Returns:
        New token ids of each row, without the stop token.

    Raises:
        PromptError: A prompt is as long as the model's context or longer, or tiles and
            ``<image>`` tokens do not match.
        ValueError: ``max_new_tokens``, ``temperature`` or ``top_p`` out of range.
    """
    _check_options(max_new_tokens, temperature, top_p)
    stops = set(stop_token_ids if stop_token_ids is not None else [model.config.eos_token_id])
    input_ids = torch.as_tensor(input_ids, device=model.device)
    attention_mask, pixel_values, pixel_attention_mask, tile_index = (
        None if value is None else torch.as_tensor(value, device=model.device)
        for value in (attention_mask, pixel_values, pixel_attention_mask, tile_index)
    )
    packed = PackedBatch.from_padded(input_ids, attention_mask)
    # Each row its own: what it is batched with must not shorten an answer.
    rooms = [min(max_new_tokens, left) for left in _rooms(model, packed)]
    room = max(rooms)
    embedded_LD = _embed(model, packed, input_ids, pixel_values, pixel_attention_mask, tile_index)
    cache = _new_cache(model, packed, room)
    hidden_BD = _prefill(model, packed, embedded_LD, cache)
    decode = _FusedDecoder.of(model, cache)
    # One number a row and step, drawn for all rows, so that leaving rows change nothing.
    generator = torch.Generator().manual_seed(seed)
    answers: list[list[int]] = [[] for _ in input_ids]
    alive = list(range(len(input_ids)))
    for step in range(room):
        logits_BV = model.lm_head(hidden_BD)
        if step < min_new_tokens:
            logits_BV[:, list(stops)] = -torch.inf
        draw_B = torch.rand(len(input_ids), generator=generator)[alive].to(model.device)
        tokens_B = _choose(logits_BV, draw_B, temperature, top_p)
        going = []
        for index, (row, token) in enumerate(zip(alive, tokens_B.tolist(), strict=True)):
            if token not in stops:
                answers[row].append(token)
                if step + 1 < rooms[row]:
                    going.append(index)
        if not going:
            break
        if len(going) < len(alive):
            kept = torch.tensor(going, device=model.device)
            alive, tokens_B = [alive[index] for index in going], tokens_B[kept]
            cache.keep(kept)
        with _decode_kernels(model.device):
            hidden_BD = decode(tokens_B)
    return answers


def _check_options(max_new_tokens: int, temperature: float, top_p: float) -> None:
    if max_new_tokens < 0:
        raise ValueError(f"max_new_tokens is {max_new_tokens}, expected at least 0")
    if temperature < 0 or not 0 < top_p <= 1:
        raise ValueError(
            f"temperature is {temperature} and top_p {top_p}; expected temperature >= 0 and "
            f"0 < top_p <= 1"
        )


def _decode_kernels(device: torch.device) -> AbstractContextManager[object]:
    """Attention of one token a row by kernels that need no plan for each number of keys.

    cuDNN, which torch prefers on Hopper, builds a graph for every new shape, some 30 ms of the
    host's time; here the number of keys is new at every step.
    """
    if device.type != "cuda":
        return nullcontext()
    from torch.nn.attention import SDPBackend, sdpa_kernel

    return sdpa_kernel(
        [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]
    )


def _rooms(model: "SmolVLM", packed: PackedBatch) -> list[int]:
    """Tokens that the context has left beside each prompt."""
    context = model.config.text.max_position_embeddings
    if packed.max_length >= context:
        raise PromptError(
            f"the longest prompt has {packed.max_length} tokens and the model's context is "
            f"{context}; shorten the text or use fewer tiles or frames"
        )
    return [context - length for length in packed.cu_seqlens.diff().tolist()]


def _embed(
    model: "SmolVLM",
    packed: PackedBatch,
    input_ids: Tensor,
    pixel_values: Tensor | None,
    pixel_attention_mask: Tensor | None,
    tile_index: Tensor | None,
) -> Tensor:
    """Embeddings of the packed prompts with visual tokens in their places, ``(L, D)``."""
    x_LD = model.text_decoder.embed_tokens(packed.input_ids)
    image_id, tokens = model.config.image_token_id, model.config.tokens_per_tile
    if pixel_values is None:
        pixel_values = packed.input_ids.new_empty((0, 3, 0, 0))
    if tile_index is None:
        pixel_values = flat_tiles(pixel_values, input_ids, image_id, tokens, pixel_attention_mask)
    else:
        wanted = int((packed.input_ids == image_id).sum())
        if wanted != len(tile_index) * tokens:
            raise PromptError(
                f"{wanted} <image> tokens but tile_index names {len(tile_index)} tiles of {tokens} "
                f"visual tokens each; build both with the same Processor"
            )
    if not len(pixel_values):
        return x_LD
    parts = [model.connector(model.vision_encoder(x)) for x in pixel_values.split(TILE_CHUNK)]
    visual_TKD = torch.cat(parts)
    if tile_index is not None:
        visual_TKD = visual_TKD[tile_index]
    slots = (packed.input_ids == image_id).nonzero().squeeze(1)
    return x_LD.index_copy(0, slots, visual_TKD.flatten(0, 1).to(x_LD.dtype))


def _new_cache(model: "SmolVLM", packed: PackedBatch, room: int) -> KeyValueCache:
    text = model.config.text
    return KeyValueCache(
        layers=text.num_hidden_layers,
        lengths=packed.cu_seqlens.diff().tolist(),
        max_new_tokens=room,
        heads=text.num_key_value_heads,
        head_dim=text.head_dim,
        device=model.device,
        dtype=model.dtype,
    )


def _prefill(model: "SmolVLM", packed: PackedBatch, x_LD: Tensor, cache: KeyValueCache) -> Tensor:
    """Keep the prompts' keys and values; hidden states of their last tokens, ``(B, D)``."""
    attention = DocumentAttention(
        packed.cu_seqlens,
        max_length=packed.max_length,
        dtype=model.dtype,
        backend=model.attention_backend,
        document_ids=packed.document_ids,
        constant_shapes=False,
    )
    hidden_LD = model.text_decoder(x_LD, packed.positions, cache.prefill(attention))
    return hidden_LD[packed.cu_seqlens[1:].long() - 1]


class _FusedDecoder:
    """One token a row through the text decoder, without the cost of modules.

    Joins the weights that read the same input once for all steps; on a CPU, joining them at every
    step and calling some 15 modules a layer costs more than the products themselves.
    """

    def __init__(self, model: "SmolVLM", cache: KeyValueCache) -> None:
        self.decoder, self.cache = model.text_decoder, cache
        self.config = model.config.text
        self.layers: list[tuple[Tensor, ...]] = []
        layers: list[Any] = list(self.decoder.layers)
        for layer in layers:
            attention, mlp = layer.self_attn, layer.mlp
            qkv = (attention.q_proj, attention.k_proj, attention.v_proj)
            self.layers.append(
                (
                    layer.input_layernorm.weight,
                    torch.cat([linear.weight for linear in qkv]),
                    attention.o_proj.weight,
                    layer.post_attention_layernorm.weight,
                    torch.cat([mlp.gate_proj.weight, mlp.up_proj.weight]),
                    mlp.down_proj.weight,
                )
            )
        # A row's angles are looked up; computing them is a dozen small operations a step.
        places = torch.arange(cache.keys.shape[3], device=model.device)
        self.cos, self.sin = rotary_angles(places, self.config, model.dtype)

    @classmethod
    def of(cls, model: "SmolVLM", cache: KeyValueCache) -> "_FusedDecoder | _ModuleDecoder":
        """The fast way where every layer is a plain one; adapters and shards go by modules."""
        linear = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
        plain = all(
            type(module) is nn.Linear and type(module.weight.data) is Tensor
            for name, module in model.text_decoder.layers.named_modules()
            if name.rpartition(".")[2] in linear
        )
        return cls(model, cache) if plain else _ModuleDecoder(model, cache)

    def __call__(self, tokens_B: Tensor) -> Tensor:
        """Hidden states ``(B, D)`` of new tokens, which take their places in the cache."""
        cache, config = self.cache, self.config
        eps, width = config.rms_norm_eps, (config.hidden_size,)
        kv = config.num_key_value_heads * config.head_dim
        sizes = [config.num_attention_heads * config.head_dim, kv, kv]
        cos, sin = self.cos[cache.lengths], self.sin[cache.lengths]
        attend = cache.step()
        x_BD = F.embedding(tokens_B, self.decoder.embed_tokens.weight)
        for index, (norm1, qkv, out, norm2, gate_up, down) in enumerate(self.layers):
            parts = F.linear(F.rms_norm(x_BD, width, norm1, eps), qkv).split(sizes, dim=-1)
            q, k, v = (part.unflatten(-1, (-1, config.head_dim)) for part in parts)
            seen = attend(index, rotate(q, cos, sin), rotate(k, cos, sin), v)
            x_BD = x_BD + F.linear(seen.flatten(1), out)
            gate, up = F.linear(F.rms_norm(x_BD, width, norm2, eps), gate_up).chunk(2, dim=-1)
            x_BD = x_BD + F.linear(F.silu(gate) * up, down)
        cache.advance()
        return F.rms_norm(x_BD, width, self.decoder.norm.weight, eps)


class _ModuleDecoder:
    """The same through the modules themselves."""

    def __init__(self, model: "SmolVLM", cache: KeyValueCache) -> None:
        self.model, self.cache = model, cache

    def __call__(self, tokens_B: Tensor) -> Tensor:
        """Hidden states ``(B, D)`` of new tokens."""
        cache = self.cache
        hidden_BD = self.model.hidden_states(tokens_B, cache.lengths, cache.step())
        cache.advance()
        return hidden_BD


def _choose(logits_BV: Tensor, draw_B: Tensor, temperature: float, top_p: float) -> Tensor:
    """One token a row: the likeliest, or by inverse transform of ``draw_B`` in [0, 1)."""
    if temperature < COLDEST:
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
