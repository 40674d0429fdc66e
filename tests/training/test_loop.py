"""One optimiser step at a time."""

import json
import math
import os
import shutil

import numpy as np
import pytest
import torch

from smolvlm2.errors import CheckpointError, ConfigError, TrainingError
from smolvlm2.loading.loader import Loader
from smolvlm2.plan.plan import Position
from smolvlm2.training.exchange import SHOWN_IDS, Loaded, LoadedPack, StepFacts
from smolvlm2.training.freezing import apply_freezing
from smolvlm2.training.parallelize import gather_weights, whole_model


def weights_of(trainer):
    return gather_weights(trainer.model, trainer.world)


def step_of(trainer, batch):
    packs = {number: LoadedPack.of(pack) for number, pack in enumerate(batch.packs)}
    return trainer._step(batch, list(packs), StepFacts.of([Loaded(packs=packs)]))


def first_batch(trainer):
    return next(iter(Loader(trainer.plan, trainer.reader, Position(), workers=0)))


def skips_of(folder):
    return [json.loads(line) for line in (folder / "skips.jsonl").read_text().splitlines()]


def test_the_gradient_of_a_step_is_that_of_all_its_packs_over_the_global_count(
    make_trainer, tmp_path
):
    trainer = make_trainer(tmp_path / "run", "optimizer.max_grad_norm=1e9")
    apply_freezing(trainer.model, frozenset())
    batch = first_batch(trainer)
    assert len(batch.packs) > 1
    seen = {}
    trainer.updater.apply = lambda: seen.update(
        {name: shard.grad.clone() for name, shard in trainer.updater.shards.items()}
    )
    line = step_of(trainer, batch)
    packs = [pack.trimmed() for pack in batch.packs]
    total, count = 0, sum(float(pack.loss_weights.sum()) for pack in packs)
    names = (
        *("input_ids", "positions", "document_ids", "cu_seqlens", "loss_positions"),
        *("loss_targets", "loss_weights", "pixel_values", "tile_slots"),
    )
    model = whole_model(trainer.model.config, weights_of(trainer), torch.device("cpu"))
    for pack in packs:
        inputs = {name: torch.from_numpy(getattr(pack, name)) for name in names}
        total = total + model(**inputs).loss_sum
    (total / count).backward()
    assert line["loss"] == pytest.approx(total.item() / count, rel=1e-5)
    assert line["supervised"] == count
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(seen[name], parameter.grad, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize(
    "setting", ["encoder.tile_chunk=2", "training.activation_checkpointing=encoder"]
)
def test_memory_settings_leave_the_losses_as_they_are(
    make_trainer, tmp_path, straight, log_lines, setting
):
    make_trainer(tmp_path / "run", setting, "encoder.tile_chunk=2").train()
    losses = [[line["loss"] for line in log_lines(run)] for run in (straight, tmp_path / "run")]
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)


def test_activation_checkpointing_changes_nothing(make_trainer, tmp_path, straight):
    make_trainer(tmp_path / "run", "training.gradient_checkpointing=false").train()
    weights = (tmp_path / "run" / "model.safetensors").read_bytes()
    assert weights == (straight / "model.safetensors").read_bytes()


def test_global_random_state_does_not_matter(make_trainer, tmp_path, straight):
    torch.manual_seed(123)
    np.random.seed(4)  # noqa: NPY002
    make_trainer(tmp_path / "run").train()
    weights = (tmp_path / "run" / "model.safetensors").read_bytes()
    assert weights == (straight / "model.safetensors").read_bytes()


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_stops_before_the_update(make_trainer, tmp_path, value):
    trainer = make_trainer(tmp_path / "run")
    with torch.no_grad():
        trainer.updater.shards["lm_head.weight"][5] = value
    before = weights_of(trainer)
    ids = [id for pack in first_batch(trainer).packs for id in pack.sample_ids]
    with pytest.raises(TrainingError, match=r"step 0: loss nan .* weights are as before") as error:
        trainer.train()
    assert all(id in str(error.value) for id in ids[:SHOWN_IDS])
    after = weights_of(trainer)
    assert all(torch.equal(before[name], after[name]) or "lm_head" in name for name in before)
    assert trainer.state.step == 0
    assert not trainer.run.log.path.exists()


def test_a_step_without_supervised_tokens_does_nothing(make_trainer, tmp_path):
    trainer = make_trainer(tmp_path / "run")
    batch = first_batch(trainer)
    for pack in batch.packs:
        pack.loss_weights[:] = 0
    before = weights_of(trainer)
    line = step_of(trainer, batch)
    assert line["loss"] is None
    assert line["supervised"] == 0
    assert all(torch.equal(before[name], value) for name, value in weights_of(trainer).items())
    assert not trainer.updater.optimizer.state


PATIENT = "data.sample_timeout_s=3"
"""Longer than any good sample takes on a busy machine."""
SKIPPING = ("training.max_skip_fraction=1", "training.max_steps=11")


def test_a_skip_is_recorded_and_stays_on_replay(make_trainer, broken_world, tmp_path, log_lines):
    data, broken_id = broken_world
    trainer = make_trainer(tmp_path / "whole", *data, *SKIPPING)
    trainer.train()
    skips = skips_of(tmp_path / "whole")
    assert {skip["sample_id"] for skip in skips} == {broken_id}
    assert trainer.state.skipped == len(skips) > 0
    # The same run, stopped behind its skip and before the next checkpoint; then read by a worker,
    # and the image would be readable again: the skip holds all the same.
    cut = ("checkpoint.every_steps=20",)
    first = make_trainer(tmp_path / "run", *data, *SKIPPING, *cut)
    first.checkpointer.save(first.updater, first.state)
    last = skips[0]["step"]
    assert last + 1 < 11
    first.progress = lambda line: exec("raise KeyboardInterrupt") if line["step"] == last else None
    with pytest.raises(KeyboardInterrupt):
        first.train()
    known = skips_of(tmp_path / "run")
    assert known == [skip for skip in skips if skip["step"] <= last] != []
    with first.run.skips.path.open("a") as file:
        file.write('{"half a')
    second = make_trainer(tmp_path / "run", *SKIPPING, *cut)  # the whole data
    second.train()
    assert skips_of(tmp_path / "run") == known
    assert log_lines(tmp_path / "run")[: last + 1] == log_lines(tmp_path / "whole")[: last + 1]


def test_lost_samples_leave_the_step_normalised_over_the_rest(
    make_trainer, world, tmp_path, log_lines
):
    shutil.copytree(world / "data", tmp_path / "data")
    data = f"data.root={tmp_path / 'data'}"
    steps = ("training.max_steps=4", "training.max_skip_fraction=1", f"data.root={world / 'data'}")
    trainer = make_trainer(tmp_path / "lossy", *steps, data, "data.workers=2", PATIENT)
    packs = trainer.plan.plan(0).packs_of_window(0)
    planned = [plan for pack in packs for plan in trainer.reader.planned(pack)]
    shown = {plan.modality: plan for plan in reversed(planned)}
    lost = {}
    for modality in (2, 3):  # the first pair of images hangs its worker, the first clip is gone
        plan = shown[modality]
        manifest = trainer.reader.manifests[plan.source]
        path = manifest.data_root / manifest.row(plan.row).media[0].path
        path.unlink()
        if modality == 2:
            os.mkfifo(path)
        for row in range(len(manifest)):
            if manifest.row(row).media[0].path == path.relative_to(manifest.data_root).as_posix():
                lost[manifest.sample_id(row)] = modality
    trainer.train()
    known = skips_of(tmp_path / "lossy")
    reasons = {(lost[skip["sample_id"]], skip["reason"]) for skip in known}
    assert reasons == {(2, "corrupt_media"), (3, "missing_media")}
    assert all("killed after" in skip["detail"] for skip in known if lost[skip["sample_id"]] == 2)
    whole = make_trainer(tmp_path / "less", *steps, f"data.skip_ids=[{','.join(lost)}]")
    whole.train()
    assert log_lines(tmp_path / "lossy") == log_lines(tmp_path / "less")


def test_too_many_skips_stop_the_run_again_after_a_restart(make_trainer, broken_world, tmp_path):
    data, _ = broken_world
    settings = (*data, "training.max_skip_fraction=0", "training.max_steps=11")
    for _ in range(2):
        with pytest.raises(TrainingError, match=r"max_skip_fraction=0\.0 allows .*skips\.jsonl"):
            make_trainer(tmp_path / "run", *settings).train()
    make_trainer(tmp_path / "run", *data, *SKIPPING).train()


def test_samples_that_ended_a_run_are_tried_again_when_their_files_are_back(
    make_trainer, broken_world, tmp_path, log_lines
):
    data, broken_id = broken_world
    settings = ("training.max_skip_fraction=0", "training.max_steps=11")
    first = make_trainer(tmp_path / "run", *data, *settings)
    first.checkpointer.save(first.updater, first.state)
    with pytest.raises(TrainingError, match="they are tried anew"):
        first.train()
    assert [skip["sample_id"] for skip in skips_of(tmp_path / "run")] == [broken_id]
    make_trainer(tmp_path / "run", *settings).train()  # the whole data
    assert skips_of(tmp_path / "run") == []
    make_trainer(tmp_path / "whole", *settings).train()
    assert log_lines(tmp_path / "run") == log_lines(tmp_path / "whole")


def test_samples_can_be_left_out_when_a_run_goes_on(make_trainer, tmp_path):
    folder = tmp_path / "run"
    first = make_trainer(folder, "training.max_steps=4")
    first.progress = lambda line: exec("raise KeyboardInterrupt") if line["step"] == 2 else None
    with pytest.raises(KeyboardInterrupt):
        first.train()
    packs, _ = first.plan.step(first.state.position)
    unwanted = first.reader.read(packs[0])[0].sample_ids[0]
    second = make_trainer(folder, "training.max_steps=4", f"data.skip_ids=[{unwanted}]")
    seen = []
    read = second.reader.read
    second.reader.read = lambda pack: seen.append(read(pack)) or seen[-1]
    second.train()
    ids = {id for batch, _ in seen for id in batch.sample_ids}
    assert ids
    assert unwanted not in ids


def test_a_stage_starts_from_the_one_before(make_trainer, straight, tmp_path):
    trainer = make_trainer(tmp_path / "next", checkpoint=straight)
    assert trainer.state.step == 0
    from smolvlm2.model.smolvlm import SmolVLM

    before = SmolVLM.from_pretrained(straight).state_dict()
    assert all(torch.equal(before[n], v) for n, v in weights_of(trainer).items())


def test_a_tokenizer_of_another_model_is_refused(make_trainer, straight, run_copy, tmp_path):
    config = json.loads((run_copy / "config.json").read_text())
    config["text_config"]["vocab_size"] += 1
    (run_copy / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match="do not belong together"):
        make_trainer(tmp_path / "next", checkpoint=run_copy)


def test_a_recipe_without_mixture_is_refused(make_trainer, tmp_path):
    with pytest.raises(ConfigError, match=r"data\.mixture is not set"):
        make_trainer(tmp_path / "run", "data.mixture=null")
    assert not (tmp_path / "run").exists()
