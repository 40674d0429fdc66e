"""Noise and dropout from counters."""

import numpy as np
import pytest
import torch

from smolvlm2.errors import ConfigError
from smolvlm2.loading.micro_batch import MicroBatch
from smolvlm2.model.components import load_components
from smolvlm2.training.randomness import CountedDropout, PackRandomness, add_embedding_noise
from smolvlm2.training.recipe import TrainingSettings


@pytest.fixture
def model(make_recipe):
    return load_components(make_recipe().model, seed=0).requires_grad_(False)


def begin(randomness: PackRandomness, number: int | None, *lengths: int) -> None:
    """Turn to a pack with documents of these lengths."""
    pack = MicroBatch(
        **dict.fromkeys(MicroBatch.__dataclass_fields__)
        | {
            "cu_seqlens": np.cumsum([0, *lengths], dtype=np.int32),
            "document_ids": np.repeat(np.arange(len(lengths), dtype=np.int32), lengths),
        }
    )
    randomness.begin(number, pack)


def test_noise_is_a_function_of_seed_step_and_pack(model):
    randomness = PackRandomness(seed=5)
    add_embedding_noise(model, 5.0, randomness)
    embed = model.text_decoder.embed_tokens.train()
    ids = torch.arange(9)

    def drawn(seed, step, number):
        randomness.seed, randomness.step = seed, step
        begin(randomness, number, 4, 5)
        return embed(ids) - embed.weight[ids]

    state = torch.get_rng_state()
    first = drawn(5, 0, 0)
    assert torch.equal(first, drawn(5, 0, 0))
    for other in ((6, 0, 0), (5, 1, 0), (5, 0, 1)):
        assert not torch.equal(first, drawn(*other))
    assert torch.equal(state, torch.get_rng_state())


def test_noise_is_as_strong_as_the_paper_has_it_in_each_document(model):
    randomness = PackRandomness(seed=0)
    add_embedding_noise(model, 5.0, randomness)
    embed = model.text_decoder.embed_tokens.train()
    begin(randomness, 0, 16, 400)
    ids = torch.zeros(416, dtype=torch.long)
    noise = embed(ids) - embed.weight[0]
    width = noise.shape[1]
    for part, length in ((noise[:16], 16), (noise[16:], 400)):
        bound = 5.0 / (length * width) ** 0.5
        assert 0.9 * bound < part.abs().max() <= bound * (1 + 1e-5)
        assert part.mean().abs() < 0.1 * bound


def test_there_is_no_noise_outside_training(model):
    randomness = PackRandomness(seed=0)
    add_embedding_noise(model, 5.0, randomness)
    embed, ids = model.text_decoder.embed_tokens, torch.arange(5)
    embed.train()
    assert torch.equal(embed(ids), embed.weight[ids])
    begin(randomness, 0, 5)
    assert not torch.equal(embed(ids), embed.weight[ids])
    model.eval()
    assert torch.equal(embed(ids), embed.weight[ids])


def test_dropout_repeats_its_mask_and_keeps_the_mean():
    randomness = PackRandomness(seed=1)
    dropout = CountedDropout(0.25, 3, randomness).train()
    x = torch.ones(200, 50)
    first = dropout(x)
    assert torch.equal(first, dropout(x))
    assert first.mean() == pytest.approx(1, abs=0.02)
    assert first.unique().tolist() == pytest.approx([0, 4 / 3])
    assert not torch.equal(first, CountedDropout(0.25, 4, randomness).train()(x))
    assert torch.equal(x, dropout.eval()(x))


def test_a_noisy_run_differs_and_repeats(make_trainer, tmp_path, straight, log_lines):
    runs = []
    for name in ("a", "b"):
        make_trainer(tmp_path / name, "training.neftune_alpha=5", "training.max_steps=2").train()
        runs.append([line["loss"] for line in log_lines(tmp_path / name)])
    assert runs[0] == runs[1]
    assert runs[0] != [line["loss"] for line in log_lines(straight)][:2]


def test_negative_noise_is_refused():
    with pytest.raises(ConfigError, match=r"training\.neftune_alpha is -1"):
        TrainingSettings(neftune_alpha=-1)
