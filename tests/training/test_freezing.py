"""What trains when: a function of the step alone."""

import logging
import shutil

import pytest
import torch

from smolvlm2.training.freezing import apply_freezing, frozen_parts, learning_rates, phase_words


def test_the_encoder_is_frozen_until_its_step(make_recipe):
    training = make_recipe().training
    frozen = [bool(frozen_parts(step, training)) for step in range(6)]
    assert frozen == [True] * 3 + [False] * 3
    always = make_recipe("training.unfreeze_vision_after_steps=null").training
    assert frozen_parts(10**9, always) == {"vision_encoder"}
    never = make_recipe(
        "training.freeze_vision_encoder=false", "training.unfreeze_vision_after_steps=null"
    ).training
    assert frozen_parts(0, never) == frozenset()


def test_its_rate_rises_again_after_unfreezing(make_recipe):
    recipe = make_recipe(
        "schedule.type=constant",
        "schedule.warmup_steps=0",
        "training.vision_warmup_steps=4",
        "training.max_steps=20",
        "optimizer.vision_encoder_learning_rate=0.5",
    )
    rates = [learning_rates(step, recipe) for step in range(9)]
    assert [rate["vision_encoder"] for rate in rates] == [
        0,
        0,
        0,
        0.125,
        0.25,
        0.375,
        0.5,
        0.5,
        0.5,
    ]
    assert {rate["text_decoder"] for rate in rates} == {1e-3}


def test_the_log_names_the_steps_at_which_a_phase_begins(make_trainer, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    make_trainer(tmp_path / "run").train()
    said = [message for message in caplog.messages if message.startswith("step ")]
    assert said == ["step 0: frozen: vision encoder", "step 3: all parts train"]
    words = phase_words(frozenset(), compiled=True)
    assert words == "all parts train; blocks are compiled for it now"


@pytest.mark.parametrize("tied", ["true", "false"])
def test_a_frozen_part_has_no_gradients_and_can_come_back(make_trainer, tmp_path, tied):
    model = make_trainer(tmp_path / "run", f"model.tie_word_embeddings={tied}").model
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    apply_freezing(model, frozenset({"vision_encoder"}))
    for name, parameter in model.named_parameters():
        frozen = name.startswith("vision_encoder.")
        assert parameter.requires_grad is not frozen
        assert (parameter.grad is None) is frozen
    assert not model.vision_encoder.training
    apply_freezing(model, frozenset())
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert model.vision_encoder.training


def test_frozen_weights_stay_and_keep_no_state_until_they_train(make_trainer, tmp_path):
    trainer = make_trainer(tmp_path / "run", "training.max_steps=3", "optimizer.weight_decay=0.5")
    shards, state = trainer.updater.shards, trainer.updater.optimizer.state
    before = {name: shard.clone() for name, shard in shards.items()}
    trainer.train()
    for name, shard in shards.items():
        frozen = name.startswith("vision_encoder.")
        assert torch.equal(shard, before[name]) is frozen, name
        assert bool(state.get(shard)) is not frozen


@pytest.fixture(scope="module")
def saved_at_every_step(make_trainer, tmp_path_factory):
    """The run `straight` with a checkpoint at every step; its encoder trains from step 3 on."""
    folder = tmp_path_factory.mktemp("every") / "run"
    make_trainer(folder, "checkpoint.every_steps=1", "checkpoint.keep=9").train()
    return folder


@pytest.mark.parametrize("step", [2, 3, 4])
def test_a_run_resumed_around_the_unfreezing_step_ends_the_same(
    make_trainer, saved_at_every_step, straight, tmp_path, log_lines, step
):
    folder = tmp_path / "run"
    shutil.copytree(saved_at_every_step, folder, symlinks=True)
    trainer = make_trainer(folder, resume=step)
    assert trainer.state.step == step
    state = trainer.updater.optimizer.state
    encoder = [s for n, s in trainer.updater.shards.items() if n.startswith("vision_encoder.")]
    assert {bool(state.get(shard)) for shard in encoder} == {step > 3}
    trainer.train()
    assert log_lines(folder) == log_lines(straight)
    weights = (folder / "model.safetensors").read_bytes()
    assert weights == (straight / "model.safetensors").read_bytes()
