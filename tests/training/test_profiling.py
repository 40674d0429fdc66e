"""Traces of steps that a recipe asks for."""

import gzip
import json

import pytest
import torch

from smolvlm2.errors import ConfigError, TrainingError
from smolvlm2.training.parallelize import gather_weights
from smolvlm2.training.training_settings import ProfileSettings

ASKED = ("training.profile.first_step=1", "training.profile.steps=2", "training.max_steps=4")


def ranges_of(path):
    """Names of the ranges that the loop marks, in order."""
    events = json.loads(gzip.decompress(path.read_bytes()))["traceEvents"]
    marked = [event for event in events if event.get("cat") == "user_annotation"]
    return [event["name"] for event in sorted(marked, key=lambda event: event["ts"])]


def test_the_steps_asked_for_are_traced_and_the_weights_stay_the_same(make_trainer, tmp_path):
    traced, plain = (
        make_trainer(tmp_path / "traced", *ASKED),
        make_trainer(tmp_path / "plain", "training.max_steps=4"),
    )
    for trainer in (traced, plain):
        trainer.train()
    folder = tmp_path / "traced" / "profile"
    assert [path.name for path in folder.iterdir()] == ["rank-0-step-00000001.trace.json.gz"]
    names = ranges_of(folder / "rank-0-step-00000001.trace.json.gz")
    assert [name for name in names if name.startswith("step ")] == ["step 1", "step 2"]
    assert names.count("load") == 2
    assert "Optimizer.step#AdamW.step" in names
    assert not (tmp_path / "plain" / "profile").exists()
    ours, theirs = (gather_weights(each.model, each.world) for each in (traced, plain))
    assert all(torch.equal(weight, theirs[name]) for name, weight in ours.items())


def test_a_run_that_goes_on_may_be_traced_from_where_it_is(make_trainer, tmp_path):
    folder = tmp_path / "run"
    make_trainer(folder, "training.max_steps=4").train()
    for path in folder.glob("checkpoints/step-00000004"):
        path.rename(tmp_path / path.name)
    (folder / "checkpoints" / "latest").unlink()
    make_trainer(
        folder,
        *("training.max_steps=4", "training.profile.first_step=2", "training.profile.steps=9"),
    ).train()
    trace = folder / "profile" / "rank-0-step-00000002.trace.json.gz"
    assert [name for name in ranges_of(trace) if name.startswith("step ")] == ["step 2", "step 3"]


def test_a_traced_step_that_fails_is_kept(make_trainer, tmp_path):
    trainer = make_trainer(tmp_path / "run", *ASKED)

    def fail():
        raise TrainingError("no memory left")

    trainer.updater.apply = fail
    trainer.recipe.training.profile.first_step = 0
    with pytest.raises(TrainingError, match="no memory left"):
        trainer.train()
    trace = tmp_path / "run" / "profile" / "rank-0-step-00000000.trace.json.gz"
    assert "step 0" in ranges_of(trace)


def test_ranks_that_are_not_asked_for_write_nothing(make_trainer, tmp_path):
    make_trainer(tmp_path / "run", *ASKED, "training.profile.ranks=[1]").train()
    assert not (tmp_path / "run" / "profile").exists()


def test_a_trace_that_cannot_be_written_costs_itself_alone(make_trainer, tmp_path, caplog):
    trainer = make_trainer(tmp_path / "run", *ASKED)
    (tmp_path / "run" / "profile").write_text("in the way")
    assert trainer.train() == "finished"
    assert "nothing is kept of it" in caplog.text


def test_settings_that_ask_for_no_step_are_refused():
    with pytest.raises(ConfigError, match=r"steps 0, expected at least 0 and 1"):
        ProfileSettings(steps=0)
