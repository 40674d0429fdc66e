"""The loss on samples that training does not see."""

import json
import logging
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.distributed.tensor import DTensor

from smolvlm2.errors import ConfigError, PlanError
from smolvlm2.plan.plan import Position
from smolvlm2.plan.samples import MODALITIES
from smolvlm2.training.audit import audit_run
from smolvlm2.training.freezing import apply_freezing
from smolvlm2.training.validation import evaluating, validate

HELD_OUT = (
    "validation.mixture={entries: [{source: text_digits}, {source: m4_digits}]}",
    "validation.samples=20",
    "validation.every_steps=2",
)
TRAINED = "data.mixture.entries=[{source: cauldron_digits}, {source: video_digits}]"


def lines_of(folder):
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def validations(folder):
    found = [(line["step"], line["validation"]) for line in lines_of(folder) if len(line) == 2]
    return [(step, {k: v for k, v in each.items() if k != "seconds"}) for step, each in found]


def test_training_is_the_same_to_the_bit_with_and_without(make_trainer, tmp_path, log_lines):
    noisy = ("training.neftune_alpha=5", "data.workers=1")
    make_trainer(tmp_path / "without", *noisy).train()
    make_trainer(tmp_path / "with", *noisy, *HELD_OUT).train()
    with_lines = [line for line in log_lines(tmp_path / "with") if "validation" not in line]
    assert with_lines == log_lines(tmp_path / "without")
    assert [step for step, _ in validations(tmp_path / "with")] == [1, 3, 5]
    weights = (tmp_path / "with" / "model.safetensors").read_bytes()
    assert weights == (tmp_path / "without" / "model.safetensors").read_bytes()


def test_it_is_the_mean_over_tokens_of_the_same_samples_each_time(make_trainer, tmp_path):
    trainer = make_trainer(
        tmp_path / "run", TRAINED, *HELD_OUT, "training.neftune_alpha=50", "image.random_tiles=true"
    )
    apply_freezing(trainer.model, frozenset())
    assert trainer.held_out is not None
    # As after a training step, when noise could be drawn.
    trainer.randomness.begin(0, trainer.reader.read(trainer.plan.step(Position())[0][0])[0])
    found = [
        validate(trainer.held_out, trainer.updater, trainer.recipe, at="test").line()
        for _ in range(2)
    ]
    for each in found:
        del each["seconds"]
    assert found[0] == found[1]
    packs = [trainer.held_out.reader.read(pack)[0] for pack in trainer.held_out.packs.packs]
    ids = [id for pack in packs for id in pack.sample_ids]
    assert len(ids) == len(set(ids)) == found[0]["samples"] == trainer.held_out.samples
    assert {id.split("/")[0] for id in ids} == {"text_digits", "m4_digits"}
    sums = np.zeros((len(MODALITIES), 2))
    trainer.model.eval()
    for pack in packs:
        sums += trainer.updater.token_losses(pack, at="test")
    assert (
        found[0]["supervised"] == sums[:, 1].sum() == sum((p.loss_weights > 0).sum() for p in packs)
    )
    assert found[0]["loss"] == pytest.approx(sums[:, 0].sum() / sums[:, 1].sum())
    by_modality = found[0]["loss_by_modality"]
    assert set(by_modality) == {"text", "multi-image"}
    assert by_modality["text"] == pytest.approx(sums[0, 0] / sums[0, 1])


def test_the_model_is_afterwards_as_it_was(make_trainer, tmp_path):
    model = make_trainer(tmp_path / "run").model
    apply_freezing(model, frozenset({"vision_encoder"}))
    modes = [module.training for module in model.modules()]
    assert len(set(modes)) == 2
    with evaluating(model):
        assert not any(module.training for module in model.modules())
    assert [module.training for module in model.modules()] == modes


def test_samples_that_training_uses_too_are_counted_at_the_start(make_trainer, tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        make_trainer(tmp_path / "apart", TRAINED, *HELD_OUT)
    assert "in the training mixture too" not in caplog.text
    half = "data.mixture.entries=[{source: cauldron_digits}, {source: text_digits}]"
    with caplog.at_level(logging.WARNING):
        trainer = make_trainer(tmp_path / "half", half, *HELD_OUT)
    packs, tables = trainer.held_out.packs.packs, trainer.held_out.reader.tables
    texts = next(number for number, table in enumerate(tables) if table.name == "text_digits")
    count = sum(int((pack.samples.source == texts).sum()) for pack in packs)
    assert 0 < count < trainer.held_out.samples
    assert f"{count} of {trainer.held_out.samples} samples are in the training" in caplog.text


def test_parts_of_a_source_that_training_leaves_out_do_not_overlap(make_trainer, tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        trainer = make_trainer(
            tmp_path / "run",
            "data.mixture.entries=[{source: cauldron_digits, take: 'first:20'}]",
            "validation.mixture={entries: [{source: cauldron_digits, take: 'end:6'}]}",
        )
    assert trainer.held_out.samples == 6
    assert "in the training mixture too" not in caplog.text


def test_a_sample_that_cannot_be_read_is_recorded_once_and_costs_training_nothing(
    make_trainer, broken_world, tmp_path
):
    data, broken_id = broken_world
    make_trainer(
        tmp_path / "run",
        *data,
        "data.mixture.entries=[{source: text_digits}]",
        "pack.tiles=8",
        "validation.mixture={entries: [{source: cauldron_digits}]}",
        "validation.every_steps=2",
        "training.max_skip_fraction=0",
    ).train()
    skips = [
        json.loads(line) for line in (tmp_path / "run" / "skips.jsonl").read_text().splitlines()
    ]
    assert [(skip["sample_id"], skip["step"], skip["during"]) for skip in skips] == [
        (broken_id, 1, "validation")
    ]
    assert [each["skipped"] for _, each in validations(tmp_path / "run")] == [1, 1, 1]
    report = audit_run(tmp_path / "run")
    assert (report.problems, report.skipped) == ([], 0)


def test_a_run_that_was_ended_before_its_validation_does_it_when_it_goes_on(
    make_trainer, tmp_path, monkeypatch
):
    make_trainer(tmp_path / "whole", TRAINED, *HELD_OUT, "training.max_steps=4").train()
    first = make_trainer(tmp_path / "run", TRAINED, *HELD_OUT, "training.max_steps=4")
    monkeypatch.setattr(
        "smolvlm2.training.checkups.validate", lambda *_, **__: exec("raise KeyboardInterrupt")
    )
    with pytest.raises(KeyboardInterrupt):
        first.train()
    monkeypatch.undo()
    assert validations(tmp_path / "run") == []
    second = make_trainer(tmp_path / "run", TRAINED, *HELD_OUT, "training.max_steps=4")
    assert second.state.step == 2
    second.train()
    assert validations(tmp_path / "run") == validations(tmp_path / "whole") != []
    # What the log has is not done again, nor written twice.
    log = (tmp_path / "run" / "log.jsonl").read_bytes()
    make_trainer(tmp_path / "run", TRAINED, *HELD_OUT, "training.max_steps=4").train()
    assert (tmp_path / "run" / "log.jsonl").read_bytes() == log


def test_packs_end_when_each_was_computed_once(make_trainer, tmp_path):
    held_out = make_trainer(tmp_path / "run", TRAINED, *HELD_OUT).held_out
    packs = replace(held_out.packs, packs_per_step=2)
    seen, position = [], Position()
    for _ in range(packs.steps):
        step, position = packs.step(position)
        seen += step
    assert seen == held_out.packs.packs
    with pytest.raises(PlanError, match="have been gone through"):
        packs.step(position)


def test_a_sample_larger_than_the_runs_packs_is_named(make_trainer, tmp_path):
    with pytest.raises(PlanError, match=r"validation: a sample has \d+ tiles and a pack holds 1"):
        make_trainer(
            tmp_path / "run",
            "data.mixture.entries=[{source: text_digits}]",
            "validation.mixture={entries: [{source: video_digits}]}",
            "pack.tiles=1",
        )
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", ["samples", "every_steps"])
def test_numbers_below_one_are_refused(make_recipe, name):
    with pytest.raises(ConfigError, match=rf"validation\.{name} is 0, expected at least 1"):
        make_recipe(f"validation.{name}=0")


def test_neither_gradients_nor_gathered_weights_are_left(make_trainer, tmp_path):
    trainer = make_trainer(tmp_path / "run", TRAINED, *HELD_OUT)
    validate(trainer.held_out, trainer.updater, trainer.recipe, at="test")
    assert all(parameter.grad is None for parameter in trainer.model.parameters())
    assert all(isinstance(parameter, DTensor) for parameter in trainer.model.parameters())
    assert torch.is_grad_enabled()


def test_turns_stand_in_their_first_order_while_training_goes_through_all(make_trainer, tmp_path):
    trainer = make_trainer(tmp_path / "run", *HELD_OUT, "limits.turn_orders=2")
    reader = trainer.held_out.reader
    packs = trainer.held_out.packs.packs
    assert {plan.turn_order for pack in packs for plan in reader.planned(pack)} == {0}
    packs, position = [], Position()
    for _ in range(6):
        step, position = trainer.plan.step(position)
        packs += step
    planned = [plan for pack in packs for plan in trainer.reader.planned(pack)]
    assert {plan.turn_order for plan in planned} == {0, 1}
    assert all(plan.turn_order == plan.epoch % 2 for plan in planned)
