"""A run that began from other weights than it is started with says so."""

import shutil

import pytest


@pytest.fixture
def warnings(caplog):
    def found() -> list[str]:
        return [each.message for each in caplog.records if "began from other" in each.message]

    return found


@pytest.mark.parametrize("start", [".", "checkpoints/step-00000004"])
def test_a_stage_before_that_was_trained_anew_is_noticed(
    make_trainer, run_copy, tmp_path, warnings, start
):
    settings = ("training.max_steps=2", "schedule.warmup_steps=0")
    make_trainer(tmp_path / "next", *settings, checkpoint=run_copy / start).train()
    make_trainer(tmp_path / "next", *settings, checkpoint=run_copy / start)
    assert not warnings()
    shutil.rmtree(run_copy)
    make_trainer(run_copy, "training.seed=5").train()  # another stage under the same name
    before = (tmp_path / "next" / "model.safetensors").read_bytes()
    trainer = make_trainer(tmp_path / "next", *settings, checkpoint=run_copy / start)
    (warning,) = warnings()
    assert f"than {run_copy / start} holds now" in warning
    assert "--restart" in warning
    trainer.train()
    assert (tmp_path / "next" / "model.safetensors").read_bytes() == before


@pytest.mark.parametrize("leads_nowhere", [False, True])
def test_weights_that_are_gone_stop_nothing(
    make_trainer, run_copy, tmp_path, warnings, leads_nowhere
):
    make_trainer(tmp_path / "next", "training.max_steps=2", checkpoint=run_copy).train()
    (run_copy / "model.safetensors").unlink()
    if leads_nowhere:  # as in a cache of the hub that was cleared
        (run_copy / "model.safetensors").symlink_to(tmp_path / "blob")
    make_trainer(tmp_path / "next", "training.max_steps=2", checkpoint=run_copy)
    assert not warnings()


def test_a_run_from_components_has_no_record(straight):
    assert not (straight / "plan" / "start.json").exists()
