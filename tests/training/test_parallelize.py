"""What is applied to the model from outside changes nothing but memory and precision."""

from contextlib import nullcontext

import pytest
import torch

from smolvlm2.model.config import SmolVLMConfig, TextConfig, VisionConfig
from smolvlm2.model.smolvlm import SmolVLM
from smolvlm2.training.parallelize import (
    checkpoint_activations,
    choose_device,
    has_bf16,
    precision,
)

CPU = torch.device("cpu")


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


def test_bf16_is_used_only_where_asked_for_and_possible(monkeypatch):
    assert isinstance(precision(CPU, bf16=False), nullcontext)
    monkeypatch.setattr("smolvlm2.training.parallelize.has_bf16", lambda device: False)
    assert isinstance(precision(CPU, bf16=True), nullcontext)
    monkeypatch.setattr("smolvlm2.training.parallelize.has_bf16", lambda device: True)
    with precision(CPU, bf16=True):
        product = torch.ones(2, 2) @ torch.ones(2, 2)
    assert product.dtype == torch.bfloat16


def test_the_bf16_loss_is_close_to_the_fp32_loss(small_model):
    ids = torch.tensor([[1, 5, 9, 13, 7, 8, 9]])
    with torch.no_grad():
        exact = small_model(ids, labels=ids).loss.item()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            rough = small_model(ids, labels=ids).loss.item()
    assert rough == pytest.approx(exact, rel=2e-2)


def test_devices_are_chosen_by_name_or_by_what_there_is():
    assert choose_device("cpu") == CPU
    assert choose_device().type in ("cpu", "cuda")
    assert isinstance(has_bf16(CPU), bool)
