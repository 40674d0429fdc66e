"""The memory on paper against the tensors of a whole step, and a step without values.

Tensors on torch's meta device have shapes and no values: a step of any size takes seconds there,
and an operation that reads a value of the device, for which a GPU would have to be waited for,
raises. Attention and norms stand in for CUDA's kernels: the meta device would take them apart.
"""

import gc
import weakref
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from smolvlm2.apple.published import PUBLISHED
from smolvlm2.model.config import SmolVLMConfig
from smolvlm2.model.smolvlm import SmolVLM
from smolvlm2.plan.packs import Capacity
from smolvlm2.training.freezing import apply_freezing
from smolvlm2.training.memory import estimate_memory
from smolvlm2.training.optimizer import clip_gradients, hand_over_gradients, local_shards
from smolvlm2.training.parallelize import checkpoint_activations, chunk_tiles
from smolvlm2.training.training_settings import TrainingSettings

SIZES = {name: published.config for name, published in PUBLISHED.items()}
FULL = Capacity(tokens=8192, tiles=84, documents=64)
SUPERVISED_CHUNKS = 3
"""Of 512 positions: 1,171 of 8,192 tokens, as in the assumed mixture."""


class Attention(torch.autograd.Function):
    """Keeps what the kernel on CUDA keeps: its inputs, its output, and a number a head and row."""

    @staticmethod
    def forward(ctx, q, k, v):
        out = torch.empty_like(q)
        ctx.save_for_backward(q, k, v, out, torch.empty(q.shape[:-1], dtype=torch.float32))
        return out

    @staticmethod
    def backward(ctx, grad):
        return tuple(torch.empty_like(each) for each in ctx.saved_tensors[:3])


class Norm(torch.autograd.Function):
    """Keeps what the kernel on CUDA keeps: its input, and a number a row."""

    @staticmethod
    def forward(ctx, x, weight):
        ctx.save_for_backward(x, weight, torch.empty(x.shape[:-1], dtype=torch.float32))
        return torch.empty_like(x)

    @staticmethod
    def backward(ctx, grad):
        return tuple(torch.empty_like(each) for each in ctx.saved_tensors[:2])


class Counter(TorchDispatchMode):
    """Sums the bytes of all tensors but a model's weights, and keeps the largest sum."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.live = self.peak = 0
        self.known = {p.untyped_storage()._cdata for p in model.parameters()}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, Tensor):
                self._add(tensor.untyped_storage())
        self.peak = max(self.peak, self.live)
        return out

    def _add(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key not in self.known:
            self.known.add(key)
            self.live += size
            weakref.finalize(storage, self._drop, key, size)

    def _drop(self, key: int, size: int) -> None:
        self.known.discard(key)
        self.live -= size


def forget(parameter: nn.Parameter) -> None:
    parameter.grad = None


@contextmanager
def default_type(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


@pytest.fixture
def like_cuda(monkeypatch):
    monkeypatch.setattr(F, "scaled_dot_product_attention", Attention.apply)
    monkeypatch.setattr(nn.RMSNorm, "forward", lambda self, x: Norm.apply(x, self.weight))


def shaped_model(size, *, frozen, backend="varlen", checkpointing="none", tile_chunk=None):
    with torch.device("meta"), default_type(torch.bfloat16):
        model = SmolVLM(SIZES[size])
    model.attention_backend = backend
    if checkpointing != "none":
        checkpoint_activations(model, decoder=checkpointing == "all")
    if tile_chunk is not None:
        chunk_tiles(model, tile_chunk)
    apply_freezing(model, frozenset({"vision_encoder"} if frozen else ()))
    return model


def shaped_pack(config: SmolVLMConfig) -> dict[str, Tensor]:
    side, loss = config.vision.image_size, (SUPERVISED_CHUNKS, 512)
    with torch.device("meta"):
        return {
            "input_ids": torch.empty(FULL.tokens, dtype=torch.int64),
            "positions": torch.empty(FULL.tokens, dtype=torch.int64),
            "document_ids": torch.empty(FULL.tokens, dtype=torch.int32),
            "cu_seqlens": torch.empty(FULL.documents + 2, dtype=torch.int32),
            "loss_positions": torch.empty(loss, dtype=torch.int64),
            "loss_targets": torch.empty(loss, dtype=torch.int64),
            "loss_weights": torch.empty(loss),
            "pixel_values": torch.empty(FULL.tiles, 3, side, side, dtype=torch.uint8),
            "tile_slots": torch.empty(FULL.tiles * config.tokens_per_tile, dtype=torch.int64),
        }


def counted(size, **options) -> int:
    """Bytes that a pack's passes add to the weights at most; gradients are not counted."""
    model = shaped_model(size, **options)
    for parameter in model.parameters():
        if parameter.requires_grad:
            # As FSDP2 does: it adds to the sum, which the estimate has among the states.
            parameter.register_post_accumulate_grad_hook(forget)
    gc.collect()
    with Counter(model) as counter:
        # They stay until the end, as in training, where the next pack is copied meanwhile.
        pack, behind = shaped_pack(model.config), shaped_pack(model.config)
        output = model(**pack, max_length=FULL.tokens)
        output.loss_sum.backward()
        del behind
    return counter.peak


@pytest.mark.slow
@pytest.mark.parametrize(
    ("size", "options"),
    [
        ("256m", {"frozen": True}),
        ("256m", {"frozen": False}),
        ("500m", {"frozen": True}),
        ("500m", {"frozen": False}),
        ("256m", {"frozen": False, "checkpointing": "encoder"}),
        ("256m", {"frozen": False, "checkpointing": "all"}),
        ("256m", {"frozen": True, "checkpointing": "all", "tile_chunk": 28}),
        ("256m", {"frozen": False, "checkpointing": "all", "tile_chunk": 28}),
    ],
    ids=str,
)
def test_the_estimate_of_activations_is_what_a_step_holds(like_cuda, size, options):
    estimate = estimate_memory(
        SIZES[size],
        FULL,
        TrainingSettings(),
        vision_trains=not options["frozen"],
        checkpointing=options.get("checkpointing", "none"),
        tile_chunk=options.get("tile_chunk"),
    )
    found = counted(size, **options)
    print(f"counted {found / 1e9:.3f} GB, estimated {estimate.activations / 1e9:.3f}")
    assert estimate.activations == pytest.approx(found, rel=0.03)


@pytest.mark.parametrize("frozen", [True, False])
def test_a_step_needs_no_value_from_the_device(frozen):
    model = shaped_model("256m", frozen=frozen)
    output = model(**shaped_pack(model.config), max_length=FULL.tokens)
    (output.loss_sum / 1171.0).backward()
    shards = local_shards(model)
    with_gradient = hand_over_gradients(model, shards)
    norm = clip_gradients(with_gradient, 1.0, None)
    assert norm.is_meta
    trained = [name for name, shard in shards.items() if shard.grad is not None]
    assert any("vision_encoder" in name for name in trained) is not frozen
    assert {shard.grad.dtype for shard in with_gradient} == {torch.bfloat16}


def test_a_value_that_is_read_is_noticed():
    model = shaped_model("256m", frozen=True, backend="sdpa")
    with pytest.raises(RuntimeError, match="meta tensor"):
        model(**shaped_pack(model.config), max_length=FULL.tokens)
