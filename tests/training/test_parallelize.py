"""What is applied to the model from outside changes nothing but memory and precision."""

from types import SimpleNamespace

import pytest
import torch
from torch.distributed.fsdp import MixedPrecisionPolicy, OffloadPolicy
from torch.distributed.tensor import DTensor

from smolvlm2.errors import ConfigError
from smolvlm2.model.config import SmolVLMConfig, TextConfig, VisionConfig
from smolvlm2.model.smolvlm import SmolVLM
from smolvlm2.training.freezing import apply_freezing
from smolvlm2.training.launch import ParallelSettings
from smolvlm2.training.memory import MemoryEstimate
from smolvlm2.training.optimizer import hand_over_gradients, local_shards
from smolvlm2.training.parallelize import (
    Layout,
    begin_pack,
    blocks_of,
    checkpoint_activations,
    choose_deterministic_kernels,
    choose_layout,
    compile_blocks,
    gather_weights,
    make_mesh,
    precision_policy,
    shard_model,
)
from smolvlm2.training.validation import evaluating

CPU = torch.device("cpu")
GIB = 2**30


@pytest.fixture
def small_model():
    vision = VisionConfig(
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        image_size=32,
        patch_size=8,
    )
    text = TextConfig(
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        vocab_size=64,
    )
    config = SmolVLMConfig(vision=vision, text=text, scale_factor=2, image_token_id=60)
    return SmolVLM.from_random(config, seed=0)


def loss_and_gradients(model):
    ids = torch.tensor([[1, 5, 60, 60, 60, 60, 7, 8, 9]])
    pixels = torch.full((1, 3, 32, 32), 90, dtype=torch.uint8)
    model.zero_grad()
    loss = model(ids, pixels, labels=ids.masked_fill(ids == 60, -100)).loss
    loss.backward()
    return loss.item(), [parameter.grad.clone() for parameter in model.parameters()]


def test_recomputed_activations_give_the_same_loss_and_gradients(small_model):
    loss, gradients = loss_and_gradients(small_model)
    calls = []
    layer = small_model.vision_encoder.encoder.layers[0]
    layer.layer_norm1.register_forward_hook(lambda *_: calls.append(1))
    checkpoint_activations(small_model)
    again, recomputed = loss_and_gradients(small_model)
    assert len(calls) == 2
    assert again == loss
    for before, after in zip(gradients, recomputed, strict=True):
        assert torch.equal(before, after)


def test_nothing_is_recomputed_without_gradients(small_model):
    checkpoint_activations(small_model)
    with torch.no_grad():
        assert small_model(torch.tensor([[1, 2, 3]])).logits.shape == (1, 3, 64)


def test_a_cpu_computes_in_fp32_and_no_input_is_cast():
    policy = precision_policy(CPU, bf16=True)
    assert policy.param_dtype is None
    assert not policy.cast_forward_inputs


def test_the_bf16_loss_is_close_to_the_fp32_loss(small_model):
    ids = torch.tensor([[1, 5, 9, 13, 7, 8, 9]])
    with torch.no_grad():
        exact = small_model(ids, labels=ids).loss.item()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            rough = small_model(ids, labels=ids).loss.item()
    assert rough == pytest.approx(exact, rel=2e-2)


@pytest.fixture
def shard_as_on_cuda(small_model):
    """Shard the small model over one rank by block, under CUDA's types; gives the mesh."""

    def shard(*, reshard_after_forward: bool):
        mesh = make_mesh(Layout(sharding="full", replicas=1, shards=1), CPU)
        shard_model(
            small_model,
            mesh,
            blocks_of(small_model),
            policy=MixedPrecisionPolicy(
                param_dtype=torch.bfloat16, reduce_dtype=torch.float32, cast_forward_inputs=False
            ),
            offload=OffloadPolicy(),
            reshard_after_forward=reshard_after_forward,
        )
        return mesh

    return shard


def loss_of(model):
    ids = torch.tensor([[1, 5, 60, 60, 60, 60, 7, 8, 9]])
    pixels = torch.full((1, 3, 32, 32), 90, dtype=torch.uint8)
    return model(ids, pixels, labels=ids.masked_fill(ids == 60, -100)).loss


def test_blocks_that_train_later_sum_their_gradients_in_fp32_under_bf16(
    small_model, world_of_one, shard_as_on_cuda
):
    shard_as_on_cuda(reshard_after_forward=True)
    for frozen in (frozenset({"vision_encoder"}), frozenset()):
        apply_freezing(small_model, frozen)
        loss_of(small_model).backward()
        for name, parameter in small_model.named_parameters():
            if name.split(".")[0] in frozen:
                assert parameter.grad is None
            else:
                assert parameter.grad.dtype == torch.float32


@pytest.mark.parametrize("passes", ["none", "validation", "training"])
def test_gathered_weights_are_the_ones_that_are_trained(
    small_model, world_of_one, shard_as_on_cuda, passes
):
    before = {name: value.clone() for name, value in small_model.named_parameters()}
    shard_as_on_cuda(reshard_after_forward=False)
    if passes == "validation":
        with torch.no_grad(), evaluating(small_model):
            loss_of(small_model)
    elif passes == "training":
        loss_of(small_model).backward()
    found = gather_weights(small_model, world_of_one)
    assert found.keys() == before.keys()
    for name, value in before.items():
        torch.testing.assert_close(found[name], value, rtol=0, atol=0)


def test_weights_are_cast_once_a_step_and_anew_after_it(
    small_model, world_of_one, shard_as_on_cuda
):
    mesh = shard_as_on_cuda(reshard_after_forward=False)
    shards = local_shards(small_model)
    first = loss_of(small_model).item()
    for last in (False, False, True):
        begin_pack(small_model, mesh, last=last)
        loss_of(small_model).backward()
        gathered = {each: not isinstance(p, DTensor) for each, p in small_model.named_parameters()}
        assert set(gathered.values()) == {not last}
    handed = hand_over_gradients(small_model, shards)
    assert len(handed) == len(shards)
    assert {each.grad.dtype for each in handed} == {torch.float32}
    with torch.no_grad():
        for value in shards.values():
            value.mul_(1.5)
    assert loss_of(small_model).item() != first


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # the compiler's own
def test_compiled_blocks_give_the_same_loss_and_gradients(small_model):
    loss, gradients = loss_and_gradients(small_model)
    compile_blocks(small_model)
    again, compiled = loss_and_gradients(small_model)
    assert again == pytest.approx(loss, rel=1e-5)
    for before, after in zip(gradients, compiled, strict=True):
        torch.testing.assert_close(before, after, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize(("major", "dtype"), [(7, None), (8, torch.bfloat16)])
def test_a_gpu_that_only_emulates_bf16_computes_in_fp32(monkeypatch, major, dtype):
    properties = SimpleNamespace(major=major)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda *_: properties)
    monkeypatch.setattr(torch.cuda, "_check_bf16_tensor_supported", lambda *_: True)
    assert precision_policy(torch.device("cuda", 0), bf16=True).param_dtype == dtype


def test_kernels_are_chosen_on_cuda_alone():
    choose_deterministic_kernels(CPU)
    assert not torch.are_deterministic_algorithms_enabled()


@pytest.mark.gpu
def test_two_passes_on_cuda_have_the_same_bits_if_asked_for(small_model, monkeypatch):
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    model, device = small_model.cuda(), torch.device("cuda")
    ids = torch.tensor([[1, 5, 60, 60, 60, 60, 7, 8, 9]], device=device)
    pixels = torch.full((1, 3, 32, 32), 90, dtype=torch.uint8, device=device)

    def gradients():
        model.zero_grad()
        model(ids, pixels, labels=ids.masked_fill(ids == 60, -100)).loss.backward()
        return [parameter.grad.clone() for parameter in model.parameters()]

    choose_deterministic_kernels(device)
    try:
        first, second = gradients(), gradients()
    finally:
        torch.use_deterministic_algorithms(False)
        torch.backends.cuda.enable_cudnn_sdp(True)
    for before, after in zip(first, second, strict=True):
        assert torch.equal(before, after)


def layout(memory, *, ranks=16, states=8, activations=4, **settings):
    return choose_layout(
        ParallelSettings(**settings),
        ranks=ranks,
        ranks_a_machine=8,
        memory=None if memory is None else memory * GIB,
        estimate=MemoryEstimate(states=states * GIB, activations=activations * GIB),
    )


@pytest.mark.parametrize(
    ("memory", "expected"),
    [
        (None, ("replicate", 16, 1)),
        (14, ("replicate", 16, 1)),
        (13, ("hybrid", 2, 8)),
        (6, ("hybrid", 2, 8)),
        (5, ("full", 1, 16)),
    ],
)
def test_auto_takes_the_least_sharded_layout_that_fits(memory, expected):
    found = layout(memory)
    assert (found.sharding, found.replicas, found.shards) == expected


def test_a_layout_that_is_asked_for_is_taken_whatever_the_memory():
    found = layout(1, sharding="replicate")
    assert (found.replicas, found.shards) == (16, 1)
    found = layout(80, sharding="hybrid", shard_size=4)
    assert (found.replicas, found.shards) == (4, 4)
    assert str(layout(80, sharding="full")) == "full: 1 x 16 ranks (copies x shards)"


def test_groups_that_do_not_divide_the_ranks_are_refused():
    with pytest.raises(ConfigError, match="16 ranks do not divide into groups of 3"):
        layout(80, sharding="hybrid", shard_size=3)
