"""Greedy tokens equal transformers'; rows neither see nor wait for each other."""

import copy

import pytest
import torch

from smolvlm2.errors import PromptError
from smolvlm2.model.generation import _choose


def expected_tokens(theirs, batch, **options):
    """Row by row, since transformers pads on the left only."""
    answers = []
    for index in range(len(batch["input_ids"])):
        keep = batch["attention_mask"][index].bool()
        inputs = {
            "input_ids": batch["input_ids"][index][keep][None],
            "attention_mask": torch.ones(1, int(keep.sum()), dtype=torch.long),
        }
        pixels = batch["pixel_values"][index]
        if bool((inputs["input_ids"] == theirs.config.image_token_id).any()):
            inputs["pixel_values"] = pixels[pixels.flatten(1).any(dim=1)][None]
        tokens = theirs.generate(**inputs, do_sample=False, **options)[0]
        answers.append(tokens[inputs["input_ids"].shape[1] :].tolist())
    return answers


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("seed", [0, 1])
def test_greedy_tokens_equal_transformers(make_model, make_batch, to_transformers, seed, side):
    ours = make_model(seed=seed)
    theirs = to_transformers(ours)
    batch = make_batch(ours.config, side=side)
    expected = expected_tokens(theirs, batch, max_new_tokens=12, eos_token_id=None)
    found = ours.generate(**batch, max_new_tokens=12, stop_token_ids=[])
    assert found == expected
    assert len({tuple(row) for row in found}) > 1


def test_rows_stop_at_their_own_stop_token(make_model, make_batch):
    model = make_model()
    batch = make_batch(model.config)
    free = model.generate(**batch, max_new_tokens=12, stop_token_ids=[])
    stop = free[0][4]
    stopped = model.generate(**batch, max_new_tokens=12, stop_token_ids=[stop])
    for row, whole in zip(stopped, free, strict=True):
        assert row == (whole[: whole.index(stop)] if stop in whole else whole)
    assert len(stopped[0]) < 12


def test_stop_tokens_wait_for_the_least_number_of_tokens(make_model, make_batch):
    model = make_model()
    batch = make_batch(model.config)
    stops = [row[0] for row in model.generate(**batch, max_new_tokens=1, stop_token_ids=[])]
    options = {"max_new_tokens": 12, "stop_token_ids": stops}
    assert model.generate(**batch, **options) == [[], [], []]
    for row in model.generate(**batch, **options, min_new_tokens=4):
        assert len(row) >= 4
        assert not set(row) & set(stops)


def test_sampling_is_a_function_of_the_seed_and_not_of_the_other_rows(make_model, make_batch):
    model = make_model()
    batch = make_batch(model.config)
    options = {"max_new_tokens": 10, "temperature": 1.5, "stop_token_ids": []}
    first = model.generate(**batch, **options, seed=1)
    assert first == model.generate(**batch, **options, seed=1)
    assert first != model.generate(**batch, **options, seed=2)
    stop = first[0][2]
    stopped = model.generate(**batch, **(options | {"stop_token_ids": [stop]}), seed=1)
    for row, whole in zip(stopped, first, strict=True):
        assert row == (whole[: whole.index(stop)] if stop in whole else whole)


def test_one_token_a_row_is_attended_to_without_plans_for_each_length():
    from smolvlm2.model.generation import _decode_kernels

    cudnn = torch.backends.cuda.cudnn_sdp_enabled
    assert cudnn()
    with _decode_kernels(torch.device("cuda")):
        assert not cudnn()
        assert torch.backends.cuda.flash_sdp_enabled()
    with _decode_kernels(torch.device("cpu")):
        assert cudnn()


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
def test_prompts_go_through_the_attention_chosen_from_outside(make_model, make_batch, monkeypatch):
    from smolvlm2.model import attention

    model = make_model()
    batch = make_batch(model.config)
    expected = model.generate(**batch, max_new_tokens=6)
    asked = []
    flex = attention._flex_attention
    monkeypatch.setattr(attention, "_flex_attention", lambda ids: asked.append(1) or flex(ids))
    model.attention_backend = "flex"
    assert model.generate(**batch, max_new_tokens=6) == expected
    assert asked == [1]


def test_a_small_top_p_is_greedy(make_model, make_batch):
    model = make_model()
    batch = make_batch(model.config)
    greedy = model.generate(**batch, max_new_tokens=6)
    assert model.generate(**batch, max_new_tokens=6, temperature=1.0, top_p=1e-6) == greedy


def test_sampled_tokens_follow_the_probabilities():
    logits = torch.tensor([0.5, 0.3, 0.2]).log().expand(4000, 3)
    draw = torch.rand(4000, generator=torch.Generator().manual_seed(0))
    counts = _choose(logits, draw, 1.0, 1.0).bincount(minlength=3) / 4000
    assert counts.tolist() == pytest.approx([0.5, 0.3, 0.2], abs=0.03)
    counts = _choose(logits, draw, 1.0, 0.7).bincount(minlength=3) / 4000
    assert counts.tolist() == pytest.approx([0.625, 0.375, 0], abs=0.03)


@pytest.mark.parametrize("temperature", [0.0, 1e-45, 1e-38, 1e-30, 1e-4])
def test_the_coldest_temperatures_take_the_likeliest_token(temperature):
    logits = torch.randn(50, 9, generator=torch.Generator().manual_seed(0)) * 5
    found = _choose(logits, torch.rand(50), temperature, 1.0)
    assert torch.equal(found, logits.argmax(dim=-1))


def test_generation_ends_at_the_context_length(make_model, make_batch):
    model = make_model(max_position_embeddings=24)
    batch = make_batch(model.config, tiles=(3,))
    answer = model.generate(**batch, max_new_tokens=50, stop_token_ids=[])
    assert len(answer[0]) == 24 - batch["input_ids"].shape[1]


def test_a_long_prompt_does_not_shorten_its_neighbours_answers(make_model, make_batch):
    model = make_model(max_position_embeddings=32)
    batch = make_batch(model.config)
    together = model.generate(**batch, max_new_tokens=30, stop_token_ids=[])
    lengths = batch["attention_mask"].sum(dim=1).tolist()
    assert len(set(lengths)) > 1
    assert [len(row) for row in together] == [32 - length for length in lengths]
    short = lengths.index(min(lengths))
    keep = batch["attention_mask"][short].bool()
    ids, pixels = batch["input_ids"][short][keep][None], batch["pixel_values"][short]
    shown = {"pixel_values": pixels[pixels.flatten(1).any(dim=1)]}
    if not bool((ids == model.config.image_token_id).any()):
        shown = {}
    alone = model.generate(ids, **shown, max_new_tokens=30, stop_token_ids=[])
    assert together[short] == alone[0]


def test_a_prompt_longer_than_the_context_is_rejected(make_model, make_batch):
    model = make_model(max_position_embeddings=12)
    with pytest.raises(PromptError, match="prompt has 19 tokens and the model's context is 12"):
        model.generate(**make_batch(model.config, tiles=(3,)))


def test_options_out_of_range_are_rejected(make_model, make_batch):
    model = make_model()
    with pytest.raises(ValueError, match="max_new_tokens is -3, expected at least 0"):
        model.generate(**make_batch(model.config), max_new_tokens=-3)
    with pytest.raises(ValueError, match="0 < top_p <= 1"):
        model.generate(**make_batch(model.config), top_p=0)


def test_a_picture_shown_twice_is_encoded_once_and_changes_nothing(make_model, make_batch):
    model = make_model()
    batch = make_batch(model.config, tiles=(2, 2, 1))
    tiles = batch.pop("pixel_values")
    shared = torch.cat([tiles[0, :2], tiles[2, :1]])
    index = torch.tensor([0, 1, 0, 1, 2])
    seen = []
    hook = model.vision_encoder.register_forward_hook(lambda _, args, __: seen.append(len(args[0])))
    found = model.generate(**batch, pixel_values=shared, tile_index=index, max_new_tokens=6)
    hook.remove()
    assert seen == [3]
    assert found == model.generate(**batch, pixel_values=shared[index], max_new_tokens=6)


def test_an_index_that_does_not_fit_the_prompts_is_rejected(make_model, make_batch):
    model = make_model()
    batch = make_batch(model.config, tiles=(2,))
    with pytest.raises(PromptError, match="8 <image> tokens but tile_index names 1 tiles of 4"):
        model.generate(
            batch["input_ids"],
            pixel_values=batch["pixel_values"][0],
            tile_index=torch.tensor([0]),
        )


def test_layers_that_an_adapter_replaced_generate_the_same(make_model, make_batch):
    class Adapter(torch.nn.Module):
        def __init__(self, linear):
            super().__init__()
            self.linear = linear

        def forward(self, x):
            return self.linear(x)

    model = make_model()
    batch = make_batch(model.config)
    options = {"max_new_tokens": 8, "stop_token_ids": []}
    plain = model.generate(**batch, **options)
    attention = model.text_decoder.layers[1].self_attn
    attention.q_proj = Adapter(attention.q_proj)
    assert model.generate(**batch, **options) == plain
    with torch.no_grad():
        attention.q_proj.linear.weight.mul_(-3)
    assert model.generate(**batch, **options) != plain


@pytest.mark.parametrize("tiles", [(2, 0, 3), (2, 2)])
def test_rows_that_leave_do_not_change_the_others(make_model, make_batch, tiles):
    model = make_model()
    batch = make_batch(model.config, tiles=tiles)
    free = model.generate(**batch, max_new_tokens=12, stop_token_ids=[])
    stopped = model.generate(**batch, max_new_tokens=12, stop_token_ids=[free[0][2]])
    for row, whole in zip(stopped[1:], free[1:], strict=True):
        assert row == whole[: len(row)]


@pytest.mark.gpu
def test_cuda_generates_the_tokens_of_the_cpu_in_fp32(make_model, make_batch):
    model = make_model()
    batch = make_batch(model.config, side="left")
    expected = model.generate(**batch, max_new_tokens=12, stop_token_ids=[])
    assert model.cuda().generate(**batch, max_new_tokens=12, stop_token_ids=[]) == expected


@pytest.mark.gpu
def test_cuda_generates_likely_tokens_in_bf16(make_model, make_batch):
    model = make_model()
    batch = make_batch(model.config, tiles=(0, 0))
    half = copy.deepcopy(model).to("cuda", torch.bfloat16)
    found = half.generate(**batch, max_new_tokens=8, stop_token_ids=[])
    for row, mask, answer in zip(batch["input_ids"], batch["attention_mask"], found, strict=True):
        prompt = row[mask.bool()]
        with torch.no_grad():
            logits = model(torch.cat([prompt, torch.tensor(answer)])[None]).logits[0]
        made = logits[len(prompt) - 1 : -1]
        chosen = made.gather(1, torch.tensor(answer)[:, None]).squeeze(1)
        assert (chosen > made.amax(dim=1) - 0.1).all()
