"""Attention, chosen in one place: inside documents of a packed sequence, or against a cache.

Shapes: L tokens of a packed sequence, B rows of a batch, H query heads, K key and value heads,
E features of a head. Documents lie one behind the other; a token sees its own up to itself.
"""

import inspect
import itertools
import logging
from collections.abc import Callable, Sequence
from functools import cache, partial
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from smolvlm2.errors import MissingDependencyError

logger = logging.getLogger(__name__)

Backend = Literal["sdpa", "varlen", "flex"]

Attention = Callable[[int, Tensor, Tensor, Tensor], Tensor]
"""What a decoder layer calls: its index, q ``(L, H, E)``, k, v ``(L, K, E)``; gives q's shape."""


def choose_backend(
    device: torch.device, dtype: torch.dtype, *, constant_shapes: bool = True
) -> Backend:
    """The fastest backend that is right for a device and a type.

    ``varlen`` (FlashAttention, half precision on CUDA), ``flex`` (FlexAttention, any type on
    CUDA), ``sdpa`` elsewhere: one call a document, which on CPU beats a dense block mask.

    Args:
        device: Where attention is computed.
        dtype: Of queries, keys and values.
        constant_shapes: Whether L stays the same from call to call. Where it does not, ``sdpa``
            stands in for ``flex``, which is compiled for shapes and masks ``(L, L)`` first.
    """
    if device.type != "cuda":
        return "sdpa"
    if dtype in (torch.bfloat16, torch.float16) and torch.cuda.get_device_capability(device) >= (
        8,
        0,
    ):
        return "varlen"
    return "flex" if constant_shapes else "sdpa"


class DocumentAttention:
    """Causal attention inside each document of one packed sequence.

    Args:
        cu_seqlens: ``(documents + 1,)`` int32 start of each document and the end of the last; a
            document may be empty, so that the length of this tensor can be constant.
        max_length: Upper bound of a document's length, in tokens; constant for static shapes.
        backend: One of `Backend`, or None for `choose_backend`.
        document_ids: ``(L,)`` int document of each token; needed by ``flex`` only.
        constant_shapes: As for `choose_backend`.
    """

    def __init__(
        self,
        cu_seqlens: Tensor,
        *,
        max_length: int,
        dtype: torch.dtype,
        backend: Backend | None = None,
        document_ids: Tensor | None = None,
        constant_shapes: bool = True,
    ) -> None:
        self.backend = backend or choose_backend(
            cu_seqlens.device, dtype, constant_shapes=constant_shapes
        )
        _say_once(self.backend, cu_seqlens.device.type, dtype)
        self.cu_seqlens = cu_seqlens
        self.max_length = max_length
        if self.backend == "sdpa":
            self.lengths: list[int] = cu_seqlens.diff().tolist()
            self.masks: list[Tensor | None] = [None] * len(self.lengths)
            if _needs_written_mask(cu_seqlens.device, dtype):
                self.masks = [_causal_mask(n, cu_seqlens.device) for n in self.lengths]
        elif self.backend == "flex":
            if document_ids is None:
                raise ValueError("the flex backend needs document_ids")
            self._flex, self._mask = _flex_attention(document_ids)
        else:
            self._varlen = _varlen_attention()

    def __call__(self, layer: int, q_LHE: Tensor, k_LKE: Tensor, v_LKE: Tensor) -> Tensor:
        """Attend, as `Attention` has it; ``layer`` is not used."""
        if self.backend == "varlen":
            return self._varlen(
                q_LHE,
                k_LKE,
                v_LKE,
                self.cu_seqlens,
                self.cu_seqlens,
                self.max_length,
                self.max_length,
            )
        q, k, v = (x.transpose(0, 1)[None] for x in (q_LHE, k_LKE, v_LKE))
        if self.backend == "flex":
            out = self._flex(q, k, v, block_mask=self._mask, enable_gqa=True)
            return out[0].transpose(0, 1)
        # Split, not sliced: the gradient of a slice is a zero tensor of the whole length.
        documents = zip(*(x.split(self.lengths, dim=2) for x in (q, k, v)), strict=True)
        grouped = q.shape[1] != k.shape[1]
        if grouped and q.is_cuda:
            # In fp32 the kernel that keeps no (L, L) scores may want as many key heads as heads.
            group = q.shape[1] // k.shape[1]
            k, v = (x[:, :, None].expand(-1, -1, group, -1, -1).flatten(1, 2) for x in (k, v))
            grouped = False
        parts = [
            F.scaled_dot_product_attention(
                q1, k1, v1, attn_mask=mask, is_causal=mask is None, enable_gqa=grouped
            )
            for (q1, k1, v1), mask in zip(documents, self.masks, strict=True)
            if q1.shape[2]
        ]
        return torch.cat(parts, dim=2)[0].transpose(0, 1)


@cache
def _say_once(backend: Backend, device: str, dtype: torch.dtype) -> None:
    logger.info("attention: %s (%s, %s)", backend, device, str(dtype).removeprefix("torch."))


def _needs_written_mask(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether ``is_causal`` cannot be trusted: Apple's GPU in half precision before torch 2.14.

    There it lets tokens see later ones, without a word (pytorch issue 195910, not measured by us);
    a mask that is written out is kept to.
    """
    return device.type == "mps" and dtype != torch.float32


def _causal_mask(length: int, device: torch.device) -> Tensor:
    """``(length, length)`` bool: which keys a query sees."""
    return torch.ones(length, length, dtype=torch.bool, device=device).tril()


@cache
def _varlen_attention() -> Callable[..., Any]:
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError as error:
        raise MissingDependencyError(
            "packed attention on CUDA needs torch >= 2.11; pip install 'torch>=2.11'"
        ) from error
    # Its arguments changed from release to release; older ones read grouped heads off the shapes.
    known = inspect.signature(varlen_attn).parameters
    options: dict[str, Any] = {"enable_gqa": True} if "enable_gqa" in known else {}
    options |= {"window_size": (-1, 0)} if "window_size" in known else {"is_causal": True}
    return partial(varlen_attn, **options)


def _flex_attention(document_ids_L: Tensor) -> tuple[Callable[..., Tensor], object]:
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    def same_document(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return (query >= key) & (document_ids_L[query] == document_ids_L[key])

    length = document_ids_L.shape[0]
    mask = create_block_mask(
        same_document, None, None, length, length, device=document_ids_L.device.type
    )
    attend = torch.compile(flex_attention) if document_ids_L.is_cuda else flex_attention
    return attend, mask


class KeyValueCache:
    """Keys and values of a batch while it generates; row b holds its tokens at 0 .. length - 1.

    Args:
        layers: Decoder layers.
        lengths: Tokens of each row's prompt.
        max_new_tokens: Room for this many more tokens a row.
        heads: Key and value heads K.
        head_dim: Features of a head E.
    """

    def __init__(
        self,
        *,
        layers: int,
        lengths: Sequence[int],
        max_new_tokens: int,
        heads: int,
        head_dim: int,
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        room = max(lengths) + max_new_tokens
        shape = (layers, len(lengths), heads, room, head_dim)
        self.keys = torch.zeros(shape, device=device, dtype=dtype)
        self.values = torch.zeros(shape, device=device, dtype=dtype)
        self.lengths = torch.tensor(lengths, device=device)
        self.longest = max(lengths)
        """Upper bound of ``lengths``, kept here so that a step needs no look at the device."""
        self.even = len(set(lengths)) == 1
        """Whether all rows are equally long: then nothing has to be masked."""

    def prefill(self, attention: DocumentAttention) -> Attention:
        """``attention`` over the packed prompts that also writes their keys and values here."""
        bounds = attention.cu_seqlens.tolist()

        def attend(layer: int, q_LHE: Tensor, k_LKE: Tensor, v_LKE: Tensor) -> Tensor:
            for row, (start, end) in enumerate(itertools.pairwise(bounds)):
                self.keys[layer, row, :, : end - start] = k_LKE[start:end].transpose(0, 1)
                self.values[layer, row, :, : end - start] = v_LKE[start:end].transpose(0, 1)
            return attention(layer, q_LHE, k_LKE, v_LKE)

        return attend

    def step(self) -> Attention:
        """Attention of one new token a row, written at ``lengths``; it sees what is before."""
        rows = torch.arange(len(self.lengths), device=self.keys.device)
        end = self.longest + 1
        mask = None
        if not self.even:
            seen = torch.arange(end, device=self.keys.device) <= self.lengths[:, None]
            mask = seen[:, None, None]

        def attend(layer: int, q_BHE: Tensor, k_BKE: Tensor, v_BKE: Tensor) -> Tensor:
            keys, values = self.keys[layer], self.values[layer]
            if self.even:
                keys[:, :, end - 1], values[:, :, end - 1] = k_BKE, v_BKE
            else:
                keys[rows, :, self.lengths], values[rows, :, self.lengths] = k_BKE, v_BKE
            # The query heads of a key head take the place of query tokens: nothing is repeated.
            out = F.scaled_dot_product_attention(
                q_BHE.unflatten(1, (k_BKE.shape[1], -1)),
                keys[:, :, :end],
                values[:, :, :end],
                attn_mask=mask,
            )
            return out.flatten(1, 2)

        return attend

    def advance(self) -> None:
        """Count the token that ``step`` wrote."""
        self.lengths = self.lengths + 1
        self.longest += 1

    def keep(self, rows: Tensor) -> None:
        """Drop all rows but these; ``rows`` is ``(kept,)`` int64."""
        self.keys, self.values = self.keys[:, rows], self.values[:, rows]
        self.lengths = self.lengths[rows]
        left: list[int] = self.lengths.tolist()
        self.longest, self.even = max(left), len(set(left)) == 1
