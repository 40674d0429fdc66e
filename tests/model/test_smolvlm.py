"""Equality with transformers on random checkpoints, and of packed with single documents.

Tolerance 1e-4 in fp32: both sides sum in another order; the observed difference is about 1e-6.
"""

import logging

import pytest
import torch
from torch.utils._pytree import tree_leaves

from smolvlm2.model.initialisation import empty_model

TOLERANCE = 1e-4


def real(batch, values):
    return values[batch["attention_mask"].bool()]


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("ratio", [2, 3, 4])
def test_logits_equal_transformers(make_model, make_batch, to_transformers, ratio, tied):
    ours = make_model(ratio=ratio, tied=tied)
    batch = make_batch(ours.config)
    with torch.no_grad():
        expected = to_transformers(ours)(**batch).logits
        found = ours(**batch).logits
    assert found.std() > 0.1
    assert (real(batch, found) - real(batch, expected)).abs().max() < TOLERANCE


def test_left_padding_changes_no_logits(make_model, make_batch):
    model = make_model()
    right, left = (make_batch(model.config, side=side) for side in ("right", "left"))
    with torch.no_grad():
        assert torch.equal(real(right, model(**right).logits), real(left, model(**left).logits))


def test_text_only_logits_equal_transformers(make_model, make_batch, to_transformers):
    ours = make_model()
    batch = make_batch(ours.config, tiles=(0, 0))
    del batch["pixel_values"]
    with torch.no_grad():
        expected, found = to_transformers(ours)(**batch).logits, ours(**batch).logits
    assert (real(batch, found) - real(batch, expected)).abs().max() < TOLERANCE


def test_flat_uint8_tiles_give_the_logits_of_normalised_padded_tiles(make_model, make_batch):
    model = make_model()
    batch = make_batch(model.config, tiles=(1, 2))
    tiles = torch.randint(0, 256, (3, 3, 32, 32), generator=torch.Generator().manual_seed(2))
    flat = tiles.to(torch.uint8)
    batch["pixel_values"][0, 0] = tiles[0] / 255 * 2 - 1
    batch["pixel_values"][1] = tiles[1:] / 255 * 2 - 1
    with torch.no_grad():
        expected = model(**batch).logits
        found = model(**(batch | {"pixel_values": flat})).logits
    assert (found - expected).abs().max() < TOLERANCE


@pytest.mark.parametrize("tied", [False, True])
def test_loss_and_gradients_equal_transformers(make_model, make_batch, to_transformers, tied):
    ours = make_model(tied=tied)
    theirs = to_transformers(ours)
    batch = make_batch(ours.config)
    labels = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
    labels = labels.masked_fill(labels == ours.config.image_token_id, -100)
    expected = theirs(**batch, labels=labels).loss
    expected.backward()
    output = ours(**batch, labels=labels)
    output.loss.backward()
    assert output.logits is None
    assert output.num_tokens == (labels[:, 1:] != -100).sum()
    assert output.loss.item() == pytest.approx(expected.item(), abs=1e-5)
    gradients = {name: tensor.grad for name, tensor in theirs.named_parameters()}
    from smolvlm2.model.hf_format import hf_name

    for name, parameter in ours.named_parameters():
        difference = (parameter.grad - gradients[hf_name(name)]).abs().max()
        assert difference < TOLERANCE, name


def packed_inputs(model, batch, order, labels=None):
    """Some rows of a padded batch as one packed sequence, with the loss where labels say."""
    rows = {key: value[list(order)] for key, value in batch.items()}
    packed, tiles, slots = model.pack(
        rows["input_ids"], rows["attention_mask"], rows["pixel_values"]
    )
    positions, targets, weights = packed.supervision(
        labels[list(order)] if labels is not None else rows["input_ids"], chunk=8
    )
    return {
        "input_ids": packed.input_ids,
        "positions": packed.positions,
        "document_ids": packed.document_ids,
        "cu_seqlens": packed.cu_seqlens,
        "pixel_values": tiles,
        "tile_slots": slots,
        "loss_positions": positions,
        "loss_targets": targets,
        "loss_weights": weights,
    }


def test_a_packs_loss_and_gradients_are_the_sum_over_its_samples(make_model, make_batch):
    model = make_model()
    batch = make_batch(model.config, tiles=(2, 0, 3, 1))

    def gradients(orders):
        model.zero_grad()
        losses = [model(**packed_inputs(model, batch, order)).loss_sum for order in orders]
        total = torch.stack(losses).sum()
        total.backward()
        return total.item(), {
            name: parameter.grad.clone() for name, parameter in model.named_parameters()
        }

    packed, packed_gradients = gradients([(0, 1, 2, 3)])
    single, single_gradients = gradients([(0,), (1,), (2,), (3,)])
    assert packed == pytest.approx(single, rel=1e-6)
    for name, gradient in packed_gradients.items():
        scale = single_gradients[name].abs().max().clamp(min=1)
        assert (gradient - single_gradients[name]).abs().max() / scale < 1e-5, name


def test_the_logits_of_all_chunks_but_the_last_are_computed_twice(make_model, make_batch):
    model = make_model()
    batch = make_batch(model.config, tiles=(2, 0, 3, 1))
    inputs = packed_inputs(model, batch, (0, 1, 2, 3))
    calls = []
    model.lm_head.register_forward_hook(lambda *_: calls.append(torch.is_grad_enabled()))
    model(**inputs).loss_sum.backward()
    chunks = len(inputs["loss_positions"])
    assert chunks > 1
    assert len(calls) == 2 * chunks - 1


def test_changing_one_document_leaves_the_others_logits_bit_equal(make_model, make_batch):
    model = make_model()
    batch = make_batch(model.config, tiles=(2, 1, 3))
    inputs = packed_inputs(model, batch, (0, 1, 2))
    start, end = inputs["cu_seqlens"][1:3].tolist()
    with torch.no_grad():
        before = model(**inputs, return_logits=True).logits
        changed = inputs["input_ids"].clone()
        words = (changed != model.config.image_token_id) & (inputs["document_ids"] == 1)
        changed[words] = (changed[words] + 1) % 80
        pixels = inputs["pixel_values"].clone()
        pixels[2] = -pixels[2]
        inputs |= {"input_ids": changed, "pixel_values": pixels}
        after = model(**inputs, return_logits=True).logits
    assert torch.equal(before[:start], after[:start])
    assert torch.equal(before[end:], after[end:])
    assert not torch.equal(before[start:end], after[start:end])


def test_blank_tiles_and_padding_change_neither_loss_nor_gradients(make_model, make_batch):
    """Tiles beyond the real ones write to the scratch row; padding is a document of its own."""
    model = make_model()
    inputs = packed_inputs(model, make_batch(model.config, tiles=(2, 1)), (0, 1))
    length, tokens = len(inputs["input_ids"]), model.config.tokens_per_tile
    padding = torch.full((5,), model.config.pad_token_id)
    filled = inputs | {
        "input_ids": torch.cat([inputs["input_ids"], padding]),
        "positions": torch.cat([inputs["positions"], torch.arange(5)]),
        "document_ids": torch.cat([inputs["document_ids"], torch.full((5,), 2)]),
        "cu_seqlens": torch.cat(
            [inputs["cu_seqlens"], torch.tensor([length, length + 5], dtype=torch.int32)]
        ),
        "pixel_values": torch.cat([inputs["pixel_values"], torch.zeros(2, 3, 32, 32)]),
        "tile_slots": torch.cat([inputs["tile_slots"], torch.full((2 * tokens,), length + 5)]),
    }
    results = []
    for each in (inputs, filled):
        model.zero_grad()
        loss = model(**each).loss_sum
        loss.backward()
        results.append((loss.item(), model.vision_encoder.post_layernorm.weight.grad.clone()))
    assert results[0][0] == pytest.approx(results[1][0], rel=1e-6)
    assert torch.allclose(results[0][1], results[1][1], rtol=1e-4, atol=1e-6)


def test_a_pack_without_images_keeps_the_encoder_on_the_gradients_path(make_model, make_batch):
    model = make_model()
    inputs = packed_inputs(model, make_batch(model.config, tiles=(0,)), (0,))
    length, tokens = len(inputs["input_ids"]), model.config.tokens_per_tile
    inputs |= {
        "pixel_values": torch.full((1, 3, 32, 32), 127, dtype=torch.uint8),
        "tile_slots": torch.full((tokens,), length),
    }
    model(**inputs).loss_sum.backward()
    for name, parameter in model.vision_encoder.named_parameters():
        assert parameter.grad is not None, name
        assert not parameter.grad.any(), name


def test_the_choice_of_attention_is_logged_once(make_model, caplog):
    from smolvlm2.model import attention

    attention._say_once.cache_clear()
    caplog.set_level(logging.INFO)
    for _ in range(2):
        make_model()(torch.tensor([[1, 2, 3]]))
    said = [message for message in caplog.messages if message.startswith("attention: ")]
    assert said == ["attention: sdpa (cpu, float32)"]


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.parametrize("backend", ["sdpa", "sdpa with written masks", "flex"])
def test_attention_backends_agree(backend, monkeypatch):
    from smolvlm2.model import attention as module
    from smolvlm2.model.attention import DocumentAttention

    if backend == "sdpa with written masks":
        backend = "sdpa"
        monkeypatch.setattr(module, "_needs_written_mask", lambda device, dtype: True)
    generator = torch.Generator().manual_seed(0)
    q = torch.randn(12, 4, 8, generator=generator)
    k, v = (torch.randn(12, 2, 8, generator=generator) for _ in range(2))
    attention = DocumentAttention(
        torch.tensor([0, 5, 5, 12], dtype=torch.int32),
        max_length=12,
        dtype=q.dtype,
        backend=backend,
        document_ids=torch.tensor([0] * 5 + [2] * 7),
    )
    found = attention(0, q, k, v)
    for start, end in ((0, 5), (5, 12)):
        for query in range(start, end):
            keys = k[start : query + 1].repeat_interleave(2, dim=1)
            values = v[start : query + 1].repeat_interleave(2, dim=1)
            scores = torch.einsum("he,khe->hk", q[query], keys) / 8**0.5
            expected = torch.einsum("hk,khe->he", scores.softmax(-1), values)
            assert (found[query] - expected).abs().max() < 1e-5


def test_only_half_precision_on_apples_gpu_has_its_masks_written_out():
    from smolvlm2.model.attention import _needs_written_mask

    asked = [(kind, dtype) for kind in ("cpu", "mps") for dtype in (torch.float32, torch.bfloat16)]
    found = [each for each in asked if _needs_written_mask(torch.device(each[0]), each[1])]
    assert found == [("mps", torch.bfloat16)]


@pytest.mark.parametrize("constant_shapes", [True, False])
def test_only_constant_shapes_are_worth_compiling_attention_for(constant_shapes):
    from smolvlm2.model.attention import choose_backend

    found = choose_backend(torch.device("cuda"), torch.float32, constant_shapes=constant_shapes)
    assert found == ("flex" if constant_shapes else "sdpa")
    assert choose_backend(torch.device("cpu"), torch.float32) == "sdpa"


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
def test_the_decoders_attention_can_be_chosen_from_outside(make_model, make_batch):
    model = make_model()
    batch = make_batch(model.config, tiles=(2, 0, 1))
    with torch.no_grad():
        expected = model(**batch).logits
        model.attention_backend = "flex"
        torch.testing.assert_close(model(**batch).logits, expected, atol=1e-5, rtol=1e-5)


def test_fused_gelu_is_left_out_on_a_cpu(make_model, make_batch):
    model = make_model().requires_grad_(False)
    batch = make_batch(model.config, tiles=(2, 1))
    expected = model(**batch).logits
    for layer in model.vision_encoder.encoder.layers:
        layer.mlp.fused_gelu = True
    assert torch.equal(model(**batch).logits, expected)


@pytest.mark.gpu
def test_fused_gelu_is_the_tanh_form_on_cuda(make_model):
    from smolvlm2.model.vision_encoder import FeedForward

    feed_forward = FeedForward(make_model().config.vision).cuda().requires_grad_(False)
    for parameter in feed_forward.parameters():
        torch.nn.init.normal_(parameter)
    x = torch.randn(2, 4, feed_forward.fc1.in_features, device="cuda")
    expected = feed_forward(x)
    feed_forward.fused_gelu = True
    torch.testing.assert_close(feed_forward(x), expected, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("arguments", ["window_size, enable_gqa", "window_size", "is_causal"])
def test_packed_attention_is_causal_in_every_release_of_torch(monkeypatch, arguments):
    from torch.nn.attention import varlen

    from smolvlm2.model import attention

    namespace = {}
    names = ", ".join(f"{name}=None" for name in arguments.split(", "))
    exec(f"def varlen_attn(q, *, {names}):\n    return locals()", namespace)
    monkeypatch.setattr(varlen, "varlen_attn", namespace["varlen_attn"])
    attention._varlen_attention.cache_clear()
    found = attention._varlen_attention()(1)
    attention._varlen_attention.cache_clear()
    assert found.get("window_size", (-1, 0)) == (-1, 0)
    assert found.get("is_causal", True) is True
    assert found.get("enable_gqa", True) is True


@pytest.mark.parametrize(
    ("text", "total"),
    [
        ({}, 256_484_928),
        (
            {
                "hidden_size": 960,
                "intermediate_size": 2560,
                "num_hidden_layers": 32,
                "num_attention_heads": 15,
                "num_key_value_heads": 5,
            },
            507_482_304,
        ),
    ],
)
def test_parameter_counts_are_the_published_ones(text, total):
    from smolvlm2.model.config import SmolVLMConfig, TextConfig

    config = SmolVLMConfig(text=TextConfig(**text))
    model = empty_model(config, dtype=torch.float32, device="meta")
    assert sum(parameter.numel() for parameter in model.parameters()) == total


def test_building_a_random_model_leaves_the_global_generator_alone(make_model):
    before = torch.get_rng_state()
    make_model()
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.slow
def test_the_256m_architecture_equals_transformers(to_transformers):
    from smolvlm2 import SmolVLM
    from smolvlm2.model.config import SmolVLMConfig

    ours = SmolVLM.from_random(SmolVLMConfig(), seed=0)
    theirs = to_transformers(ours)
    image = [ours.config.image_token_id] * 64
    batch = {
        "input_ids": torch.tensor([[1, 11126, 42, *image, 5, 6, 7, 8]]),
        "pixel_values": torch.rand(1, 1, 3, 512, 512, generator=torch.Generator().manual_seed(0)),
    }
    with torch.no_grad():
        assert (ours(**batch).logits - theirs(**batch).logits).abs().max() < TOLERANCE


def test_sharding_finds_the_tensors_of_an_output(make_model, make_batch):
    # By tuples alone before torch 2.13; from a dataclass FSDP2 would take no hook there.
    model = make_model()
    batch = make_batch(model.config)
    output = model(**batch, labels=batch["input_ids"], return_logits=True)
    found = tree_leaves(output)
    for field in output._fields:
        assert any(each is getattr(output, field) for each in found), field
