"""Interrupted runs end as if they had not been."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from PIL import Image
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Shard
from torch.distributed.tensor._dtensor_spec import DTensorSpec, TensorMeta

from smolvlm2.errors import CheckpointError, ConfigError, ResumeError
from smolvlm2.model.smolvlm import SmolVLM
from smolvlm2.processing.processor import Processor
from smolvlm2.training.checkpoints import (
    find_checkpoint,
    load_checkpoint,
    optimizer_state,
    read_state,
)
from smolvlm2.training.export import read_weights
from smolvlm2.training.parallelize import gather_weights
from smolvlm2.training.run_folder import RunFolder


def assert_same_run(folder, straight, log_lines):
    weights = (folder / "model.safetensors").read_bytes()
    assert weights == (straight / "model.safetensors").read_bytes()
    assert log_lines(folder) == log_lines(straight)
    for name in ("step", "samples", "skipped", "chain", "position", "plan"):
        assert state_of(folder)[name] == state_of(straight)[name]


def state_of(folder):
    return json.loads((folder / "checkpoints/latest/training_state.json").read_text())


def start(recipe_file, output):
    command = [sys.executable, "-m", "smolvlm2.training.train_vision", "--device", "cpu"]
    return subprocess.Popen(
        [*command, "--config", recipe_file, "--output-dir", output],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def children_of(pid):
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@pytest.mark.skipif(not os.path.exists("/proc/self/task"), reason="needs /proc")
@pytest.mark.slow
def test_a_run_that_is_killed_ends_as_one_that_was_not(
    make_trainer, recipe_file, tmp_path, log_lines
):
    # Killed after step 7, long before the end and before the encoder trains; read by a worker.
    lines = 7
    settings = (
        "training.max_steps=40",
        "training.unfreeze_vision_after_steps=20",
        "checkpoint.every_steps=5",
    )
    make_trainer(tmp_path / "whole", *settings).train()
    recipe, output = recipe_file(*settings, "data.workers=1"), tmp_path / "run"
    process = start(recipe, output)
    log = output / "log.jsonl"
    limit = time.monotonic() + 200
    while not log.exists() or log.read_text().count("\n") < lines:
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < limit
    workers = children_of(process.pid)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    process.stderr.close()
    assert not (output / "model.safetensors").exists()
    while any(os.path.exists(f"/proc/{worker}/exe") for worker in workers):
        assert time.monotonic() < limit, "a worker outlived its trainer"
    again = start(recipe, output)
    _, errors = again.communicate(timeout=200)
    assert again.returncode == 0, errors
    assert "resuming at step" in errors
    assert_same_run(output, tmp_path / "whole", log_lines)


@pytest.mark.parametrize("name", ["__0_0.distcp", ".metadata", "training_state.json"])
def test_a_truncated_newest_checkpoint_falls_back_with_a_warning(
    make_trainer, run_copy, straight, log_lines, caplog, name
):
    path = run_copy / "checkpoints" / "step-00000006" / name
    os.truncate(path, path.stat().st_size // 2)
    trainer = make_trainer(run_copy)
    assert trainer.state.step == 4
    assert "trying the one before" in caplog.text
    trainer.train()
    assert_same_run(run_copy, straight, log_lines)
    read_state(run_copy / "checkpoints" / "step-00000006")


def test_a_broken_last_checkpoint_off_the_interval_is_written_again(make_trainer, tmp_path):
    settings = ("checkpoint.every_steps=4",)
    make_trainer(tmp_path / "run", *settings).train()
    last = tmp_path / "run" / "checkpoints" / "step-00000006"
    (last / ".metadata").unlink()
    make_trainer(tmp_path / "run", *settings).train()
    assert read_state(last).step == 6


@pytest.mark.parametrize("content", ["[]", "{}", '{"files": 3}'])
def test_a_state_file_of_another_kind_is_incomplete(run_copy, content):
    folder = run_copy / "checkpoints" / "step-00000006"
    (folder / "training_state.json").write_text(content)
    with pytest.raises(CheckpointError, match="incomplete checkpoint"):
        read_state(folder)


def test_a_file_of_another_size_is_named(run_copy):
    folder = run_copy / "checkpoints" / "step-00000006"
    (folder / "config.json").write_text("{}")
    with pytest.raises(CheckpointError, match=r"config\.json: 2 bytes, expected"):
        read_state(folder)


def test_without_a_complete_checkpoint_the_way_out_is_named(run_copy, world_of_one):
    for folder in (run_copy / "checkpoints").glob("step-*"):
        (folder / "training_state.json").unlink()
    with pytest.raises(ResumeError, match=r"no complete checkpoint .* --restart"):
        find_checkpoint(RunFolder(run_copy), world_of_one)


def test_a_finished_run_that_is_started_again_changes_nothing(
    make_trainer, run_copy, straight, log_lines
):
    make_trainer(run_copy).train()
    assert_same_run(run_copy, straight, log_lines)


def test_restart_begins_at_step_0(make_trainer, run_copy, straight, log_lines):
    trainer = make_trainer(run_copy, restart=True)
    assert (trainer.state.step, trainer.run.steps()) == (0, [])
    assert not (run_copy / "model.safetensors").exists()
    trainer.train()
    assert_same_run(run_copy, straight, log_lines)


def test_resuming_needs_no_component_weights(make_trainer, run_copy, world, tmp_path):
    weights = world / "parts" / "siglip" / "model.safetensors"
    weights.rename(tmp_path / "away")
    try:
        assert make_trainer(run_copy).state.step == 6
    finally:
        (tmp_path / "away").rename(weights)


def test_a_start_that_fails_leaves_the_earlier_run(make_trainer, run_copy, world, tmp_path):
    weights = world / "parts" / "siglip" / "model.safetensors"
    weights.rename(tmp_path / "away")
    try:
        with pytest.raises(FileNotFoundError, match=r"model\.safetensors"):
            make_trainer(run_copy, restart=True)
    finally:
        (tmp_path / "away").rename(weights)
    assert (run_copy / "model.safetensors").exists()
    assert len(list((run_copy / "checkpoints").glob("step-*"))) == 3


def test_a_run_cannot_start_from_the_folder_it_clears(make_trainer, run_copy):
    for start_from in (run_copy, run_copy / "checkpoints" / "latest"):
        with pytest.raises(ConfigError, match="start from the folder that --restart clears"):
            make_trainer(run_copy, checkpoint=start_from, restart=True)


def test_a_checkpoint_of_another_model_is_refused(make_trainer, run_copy):
    trainer = make_trainer(run_copy)
    folder = run_copy / "checkpoints" / "step-00000006"
    theta = trainer.model.config.text.rope_theta
    trainer.model.config.text.rope_theta += 1
    with pytest.raises(CheckpointError, match="other shapes than the one it is started with"):
        load_checkpoint(folder, trainer.world, trainer.updater)
    state = folder / "training_state.json"
    content = json.loads(state.read_text())
    state.write_text(json.dumps(content | {"optimizer_parameters": ["lm_head.bias"]}))
    trainer.model.config.text.rope_theta = theta
    with pytest.raises(CheckpointError, match=r"unknown parameter 'lm_head\.bias'"):
        load_checkpoint(folder, trainer.world, trainer.updater)


@pytest.mark.parametrize("tied", ["true", "false"])
def test_run_and_step_folders_load_with_equal_weights(make_trainer, tmp_path, tied):
    folder = tmp_path / "run"
    trainer = make_trainer(folder, f"model.tie_word_embeddings={tied}", "training.max_steps=2")
    trainer.train()
    expected = gather_weights(trainer.model, trainer.world)
    step = folder / "checkpoints" / "step-00000002"
    shutil.copytree(folder, tmp_path / "unfinished", symlinks=True)
    for path in (tmp_path / "unfinished").iterdir():
        if path.is_file() and path.name not in ("config.yaml", "log.jsonl"):
            path.unlink()  # what the export wrote
    for path in (folder, step, folder / "checkpoints" / "latest", tmp_path / "unfinished"):
        loaded = SmolVLM.from_pretrained(path).state_dict()
        assert all(torch.equal(loaded[name], value) for name, value in expected.items())
    for path in (folder, step, folder / "checkpoints" / "latest", tmp_path / "unfinished"):
        assert (
            Processor.from_pretrained(path).tokenizer.key == trainer.reader.processor.tokenizer.key
        )


def flip_bits_of_a_tensor(path):
    """In the middle of a tensor's numbers, where no reader of the format would notice."""
    content = bytearray(path.read_bytes())
    storage = content.index(b"/data/0") + 1024
    content[storage : storage + 4] = b"\x40\x40\x40\x40"
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (flip_bits_of_a_tensor, r"__0_0\.distcp: its content is not what was written"),
        (lambda path: os.truncate(path, 1000), r"__0_0\.distcp: 1000 bytes, expected \d+"),
        (lambda path: path.unlink(), r"__0_0\.distcp: cannot be read .*No such file"),
        (lambda path: (path.parent / "training_state.json").unlink(), "only whole step folders"),
    ],
)
@pytest.mark.parametrize("read", [SmolVLM.from_pretrained, read_weights])
def test_a_damaged_or_foreign_step_folder_is_refused_by_name(run_copy, damage, message, read):
    folder = run_copy / "checkpoints" / "step-00000006"
    damage(folder / "__0_0.distcp")
    with pytest.raises(CheckpointError, match=message):
        read(folder)


def test_a_step_folder_of_other_shapes_is_told_in_one_line(run_copy):
    folder = run_copy / "checkpoints" / "step-00000006"
    config = json.loads((folder / "config.json").read_text())
    config["text_config"]["intermediate_size"] += 2
    (folder / "config.json").write_text(json.dumps(config))
    state = json.loads((folder / "training_state.json").read_text())
    del state["files"]["config.json"]
    (folder / "training_state.json").write_text(json.dumps(state))
    with pytest.raises(CheckpointError, match=r"not those of its config\.json") as error:
        SmolVLM.from_pretrained(folder)
    assert "\n" not in str(error.value)


def test_the_export_gives_equal_logits_in_transformers(straight):
    from transformers import AutoModelForImageTextToText

    ours = SmolVLM.from_pretrained(straight)
    processor = Processor.from_pretrained(straight)
    generator = torch.Generator().manual_seed(0)
    page = torch.randint(0, 255, (40, 60, 3), generator=generator, dtype=torch.uint8).numpy()
    content = [
        {"type": "image", "image": Image.fromarray(page)},
        {"type": "text", "text": "Which digit is this?"},
    ]
    messages = [{"role": "user", "content": content}]
    theirs = AutoModelForImageTextToText.from_pretrained(straight, dtype=torch.float32).eval()
    with torch.no_grad():
        expected = theirs(**processor(messages, return_format="hf")).logits
        logits = ours(**processor(messages)).logits
    torch.testing.assert_close(logits, expected, atol=1e-4, rtol=1e-4)


def test_moments_in_cpu_memory_are_read_in_place_on_a_mesh_of_gpus(make_trainer, tmp_path):
    make_trainer(tmp_path / "run")  # whose process group a mesh wants
    value = torch.zeros(4, 2)
    spec = DTensorSpec(
        DeviceMesh("cuda", [0], _init_backend=False),
        (Shard(0),),
        tensor_meta=TensorMeta(value.shape, value.stride(), value.dtype),
    )
    parameter = DTensor(torch.zeros(4, 2), spec, requires_grad=False)
    shard = torch.nn.Parameter(parameter.to_local())
    updater = SimpleNamespace(
        model=SimpleNamespace(named_parameters=lambda: [("weight", parameter)]),
        shards={"weight": shard},
        optimizer=SimpleNamespace(state={shard: {"exp_avg": value}}),
    )
    optimizer_state(updater)["weight"]["exp_avg"].to_local().fill_(3)
    assert value.unique().tolist() == [3]
