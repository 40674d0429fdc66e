"""Exports behind a comparison of logits, and averages."""

import importlib.util

import pytest
import torch

from smolvlm2 import SmolVLM
from smolvlm2.errors import CheckpointError, CheckpointNotFoundError
from smolvlm2.processing.processor import Processor
from smolvlm2.training import export
from smolvlm2.training.export import average_checkpoints, export_checkpoint, read_weights


def weights_of(folder):
    return dict(SmolVLM.from_pretrained(folder).named_parameters())


def step(run, number):
    return run / "checkpoints" / f"step-{number:08d}"


def test_any_step_can_be_exported(straight, tmp_path):
    export_checkpoint(step(straight, 4), tmp_path / "out")
    expected = read_weights(step(straight, 4))[1]
    for name, weight in weights_of(tmp_path / "out").items():
        assert torch.equal(weight, expected[name]), name
    assert Processor.from_pretrained(tmp_path / "out").tile_size == 32
    assert not list((tmp_path / "out").glob(".*"))


def test_an_average_is_the_mean_of_the_weights(straight, tmp_path):
    average_checkpoints(straight, [4, 6], tmp_path / "out")
    first, second = (read_weights(step(straight, number))[1] for number in (4, 6))
    for name, weight in weights_of(tmp_path / "out").items():
        torch.testing.assert_close(weight, (first[name] + second[name]) / 2, atol=1e-7, rtol=1e-6)


def test_files_with_other_logits_do_not_replace_anything(straight, tmp_path, monkeypatch):
    out = tmp_path / "out"
    export_checkpoint(step(straight, 4), out)
    before = (out / "model.safetensors").read_bytes()
    save = export.save_model

    def damaged(model, folder, tensors):
        name = "text_decoder.norm.weight"
        save(model, folder, tensors | {name: tensors[name] * 1.01})

    monkeypatch.setattr(export, "save_model", damaged)
    with pytest.raises(CheckpointError, match=r"apart from the weights' .* nothing was replaced"):
        export_checkpoint(step(straight, 6), out)
    assert (out / "model.safetensors").read_bytes() == before


def test_a_step_folder_is_no_place_for_an_export(run_copy):
    folder = run_copy / "checkpoints" / "latest"
    before = (folder / "config.json").read_bytes()
    with pytest.raises(CheckpointError, match=r"is a step folder.* choose another folder"):
        export_checkpoint(folder, folder)
    assert (folder / "config.json").read_bytes() == before
    assert not (folder / "model.safetensors").exists()


def test_what_cannot_be_averaged_is_refused(straight, tmp_path):
    with pytest.raises(CheckpointError, match="needs two different steps"):
        average_checkpoints(straight, [4, 4], tmp_path / "out")
    with pytest.raises(CheckpointNotFoundError, match=r"no checkpoint of step 5; it has .*4, 6"):
        average_checkpoints(straight, [4, 5], tmp_path / "out")


@pytest.mark.skipif(importlib.util.find_spec("peft") is None, reason="needs peft")
def test_adapters_of_a_step_are_merged(make_trainer, tmp_path):
    trainer = make_trainer(
        tmp_path / "run",
        "training.adapters.rank=4",
        "training.adapters.trained_embeddings_from=290",
        "training.freeze_vision_encoder=false",
        "training.unfreeze_vision_after_steps=null",
        "training.max_steps=2",
    )
    trainer.train()
    export_checkpoint(step(tmp_path / "run", 2), tmp_path / "out")
    expected = weights_of(tmp_path / "run")
    for name, weight in weights_of(tmp_path / "out").items():
        torch.testing.assert_close(weight, expected[name])
    (tmp_path / "run" / "config.yaml").unlink()
    with pytest.raises(CheckpointError, match="has adapters, and"):
        export_checkpoint(step(tmp_path / "run", 2), tmp_path / "other")
