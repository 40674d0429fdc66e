"""What is found out about the model between steps."""

import json
import logging

import pytest
import torch
from torch.distributed.fsdp import MixedPrecisionPolicy

from smolvlm2.errors import ConfigError, DataNotFoundError
from smolvlm2.training import checkups
from smolvlm2.training.parallelize import gather_weights

STEPS = ("training.max_steps=5", "checkpoint.every_steps=4", "evaluation.every_steps=2")


def metrics_of(folder):
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return {line["step"] + 1: line for line in lines if "metrics" in line}


def test_the_hook_has_an_interval_of_its_own_and_the_last_step(make_trainer, tmp_path):
    seen = []

    def hook(model, step):
        seen.append((step, model.lm_head.weight.detach().clone()))
        assert not model.training
        return {"score": step}

    trainer = make_trainer(tmp_path / "run", *STEPS, make_hook=lambda *_: hook)
    trainer.train()
    assert [step for step, _ in seen] == [2, 4, 5]
    assert {step: line["metrics"] for step, line in metrics_of(tmp_path / "run").items()} == {
        step: {"score": step} for step, _ in seen
    }
    weights = gather_weights(trainer.model, trainer.world)
    assert torch.equal(seen[-1][1], weights["lm_head.weight"])
    assert not torch.equal(seen[0][1], weights["lm_head.weight"])


def test_the_hook_gets_the_type_that_training_computes_in(make_trainer, tmp_path, monkeypatch):
    types = []
    # A CPU's policy has none of its own.
    policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16)
    monkeypatch.setattr(checkups, "precision_policy", lambda device, *, bf16: policy)
    make_trainer(
        tmp_path / "run",
        "training.max_steps=1",
        make_hook=lambda *_: lambda model, step: types.append(model.dtype) or {},
    ).train()
    assert types == [torch.bfloat16]


def test_a_hook_that_fails_is_noted_and_training_goes_on(make_trainer, tmp_path, straight, caplog):
    def hook(model, step):
        raise RuntimeError("no space for the keys")

    with caplog.at_level(logging.WARNING):
        make_trainer(
            tmp_path / "run", "evaluation.every_steps=4", make_hook=lambda *_: hook
        ).train()
    failures = {n: line["evaluation_failure"] for n, line in metrics_of(tmp_path / "run").items()}
    assert failures == dict.fromkeys((4, 6), "RuntimeError: no space for the keys")
    assert "evaluation at step 4 failed, training goes on" in caplog.text
    weights = (tmp_path / "run" / "model.safetensors").read_bytes()
    assert weights == (straight / "model.safetensors").read_bytes()


def test_what_a_hook_misses_is_said_before_an_earlier_run_goes(make_trainer, run_copy):
    def make_hook(recipe, processor, work):
        raise DataNotFoundError("questions.jsonl: missing")

    before = (run_copy / "log.jsonl").read_bytes()
    with pytest.raises(DataNotFoundError, match=r"questions\.jsonl"):
        make_trainer(run_copy, restart=True, make_hook=make_hook)
    assert (run_copy / "log.jsonl").read_bytes() == before


def test_benchmarks_without_anything_that_evaluates_are_warned_of(make_trainer, tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        make_trainer(tmp_path / "run", "evaluation.benchmarks=[which_digit]")
    assert "evaluation.benchmarks has no effect" in caplog.text


def test_an_evaluation_that_was_cut_off_is_made_up_for(make_trainer, tmp_path):
    def interrupted(model, step):
        raise KeyboardInterrupt

    steps = ("training.max_steps=4", "evaluation.every_steps=2")
    with pytest.raises(KeyboardInterrupt):
        make_trainer(tmp_path / "run", *steps, make_hook=lambda *_: interrupted).train()
    hook = lambda model, step: {"score": step}  # noqa: E731
    make_trainer(tmp_path / "run", *steps, make_hook=lambda *_: hook).train()
    assert list(metrics_of(tmp_path / "run")) == [2, 4]


@pytest.mark.parametrize("name", ["limit", "every_steps", "batch_size"])
def test_numbers_below_one_are_refused(make_recipe, name):
    with pytest.raises(ConfigError, match=rf"evaluation\.{name} is 0, expected at least 1"):
        make_recipe(f"evaluation.{name}=0")
