"""Compiled blocks share their graphs, and packs of other documents do not compile again."""

from functools import partial

import pytest
import torch
import torch._dynamo
from torch import Tensor

from smolvlm2.model import attention
from smolvlm2.model.config import SmolVLMConfig, TextConfig, VisionConfig
from smolvlm2.model.smolvlm import SmolVLM
from smolvlm2.training.freezing import apply_freezing
from smolvlm2.training.generated import GeneratedSample, generate, lay_out
from smolvlm2.training.parallelize import checkpoint_activations, chunk_tiles, compile_blocks

pytestmark = pytest.mark.slow
TOKENS, TILES = 48, 3
PACKS = ([(30, 2), (10, 0)], [(9, 1), (12, 1), (20, 0)], [(45, 3)])
"""Tokens and tiles of each sample of a pack."""
CONFIG = SmolVLMConfig(
    vision=VisionConfig(
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=10,
        num_attention_heads=2,
        image_size=16,
        patch_size=4,
    ),
    text=TextConfig(
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=10,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        vocab_size=64,
    ),
    scale_factor=2,
    image_token_id=60,
    eos_token_id=63,
)
"""More blocks than graphs that torch keeps of one function."""


def shares(q: Tensor, k: Tensor, bounds: Tensor) -> Tensor:
    """What each query takes of each key, ``(K, H / K, L, L)``."""
    places = torch.arange(q.shape[0])
    document = torch.bucketize(places, bounds[1:], right=True)
    seen = (document[:, None] == document) & (places[:, None] >= places)
    grouped = q.unflatten(1, (k.shape[1], -1))
    scores = torch.einsum("qkge,jke->kgqj", grouped, k) / q.shape[-1] ** 0.5
    return scores.masked_fill(~seen, -torch.inf).softmax(-1)


@torch.library.custom_op("smolvlm2_tests::packed_attention", mutates_args=())
def packed_attention(q: Tensor, k: Tensor, v: Tensor, bounds: Tensor) -> Tensor:
    return torch.einsum("kgqj,jke->qkge", shares(q, k, bounds), v).flatten(1, 2).contiguous()


@packed_attention.register_fake
def _(q, k, v, bounds):
    return torch.empty(q.shape)


@torch.library.custom_op("smolvlm2_tests::packed_attention_backward", mutates_args=())
def packed_attention_backward(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, bounds: Tensor
) -> list[Tensor]:
    # By hand: autograd does not look into an operator.
    share, scale = shares(q, k, bounds), q.shape[-1] ** -0.5
    grad, q = (x.unflatten(1, (k.shape[1], -1)) for x in (grad, q))
    to_share = torch.einsum("qkge,jke->kgqj", grad, v)
    to_score = scale * share * (to_share - (to_share * share).sum(-1, keepdim=True))
    found = (
        torch.einsum("kgqj,jke->qkge", to_score, k).flatten(1, 2),
        torch.einsum("kgqj,qkge->jke", to_score, q),
        torch.einsum("kgqj,qkge->jke", share, grad),
    )
    return [each.contiguous() for each in found]


@packed_attention_backward.register_fake
def _(grad, q, k, v, bounds):
    return [torch.empty(x.shape) for x in (q, k, v)]


def keep(ctx, inputs, output):
    ctx.save_for_backward(*inputs)


def backward(ctx, grad):
    return (*packed_attention_backward(grad, *ctx.saved_tensors), None)


packed_attention.register_autograd(backward, setup_context=keep)


def varlen(q, k, v, bounds, _, longest, __, *, enable_gqa, window_size):
    """What torch's kernel computes on CUDA, on a CPU."""
    assert enable_gqa
    assert window_size == (-1, 0)
    assert longest == TOKENS
    return packed_attention(q, k, v, bounds)


@pytest.fixture
def graphs(monkeypatch):
    """Counts compiled graphs; they are traced as usual, but run as they are."""
    options = {"enable_gqa": True, "window_size": (-1, 0)}
    monkeypatch.setattr(attention, "_varlen_attention", lambda: partial(varlen, **options))
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    yield lambda: torch._dynamo.utils.counters["stats"]["unique_graphs"]
    torch._dynamo.reset()


def packs():
    for number, lengths in enumerate(PACKS):
        made = [
            generate(CONFIG, GeneratedSample(tokens=n, tiles=t, supervised=4), seed=number)
            for n, t in lengths
        ]
        arrays = lay_out(CONFIG, made, tokens=TOKENS, tiles=TILES)
        inputs = {name: torch.from_numpy(values) for name, values in arrays.items()}
        # As the loader has them: of constant length, documents that are not there are empty.
        bounds = torch.full((6,), int(inputs["cu_seqlens"][-2]), dtype=torch.int32)
        bounds[: len(inputs["cu_seqlens"]) - 1] = inputs["cu_seqlens"][:-1]
        bounds[-1] = TOKENS
        yield inputs | {"cu_seqlens": bounds}


def gradients(model):
    model.zero_grad()
    losses = [model(**inputs, max_length=TOKENS).loss_sum for inputs in packs()]
    torch.stack(losses).sum().backward()
    return [p.grad for p in model.parameters() if p.grad is not None]


@pytest.mark.filterwarnings("ignore")  # the compiler's own
@pytest.mark.parametrize("recomputed", [False, True])
def test_graphs_are_compiled_once_a_kind_of_block_and_phase(graphs, recomputed):
    model, eager = SmolVLM.from_random(CONFIG, seed=0), SmolVLM.from_random(CONFIG, seed=0)
    model.attention_backend = "varlen"
    if recomputed:
        checkpoint_activations(model)
    compile_blocks(model)
    found = []
    for frozen in (frozenset({"vision_encoder"}), frozenset()):
        for each in (model, eager):
            apply_freezing(each, frozen)
        expected = gradients(eager)
        for _ in range(2):
            for a, b in zip(gradients(model), expected, strict=True):
                torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)
            found.append(graphs())
    # Patch embedding, encoder block, decoder block; the first two again when they train. What is
    # recomputed takes a block's number as an input: a constant at first, a variable from then on.
    assert found == [3 + recomputed, 3 + recomputed, 5 + recomputed, 5 + recomputed]


@pytest.mark.filterwarnings("ignore")  # the compiler's own
def test_a_run_has_room_for_the_graphs_of_all_it_may_be_asked_for(graphs):
    model = SmolVLM.from_random(CONFIG, seed=0)
    model.attention_backend = "varlen"
    checkpoint_activations(model)
    compile_blocks(model)
    chunk_tiles(model, 2)  # of 3 tiles: the last chunk is shorter
    for frozen in (frozenset({"vision_encoder"}), frozenset()):
        apply_freezing(model, frozen)
        gradients(model)
        with torch.no_grad():  # as in validation
            for inputs in packs():
                model(**inputs, max_length=TOKENS)
    found = graphs()
    gradients(model)
    assert graphs() == found
