"""Whole runs on several ranks: equal to one process, stopped, killed, and gone on with."""

import contextlib
import importlib.util
import os
import re
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from smolvlm2.errors import ConfigError
from smolvlm2.model.smolvlm import SmolVLM
from smolvlm2.training.audit import audit_run
from smolvlm2.training.checkpoints import read_state
from smolvlm2.training.distributed import connect
from smolvlm2.training.launch import Launch

ACCELERATE = [sys.executable, "-m", "accelerate.commands.accelerate_cli", "launch"]
YAML = "configs/accelerate_config.yaml"
LIMIT = 250
"""Seconds; a launch takes ten on an idle machine."""


def assert_same_training(folder, straight, log_lines):
    """Equal data to the letter, equal losses and weights to rounding."""
    ours, theirs = log_lines(folder), log_lines(straight)
    assert [line["chain"] for line in ours] == [line["chain"] for line in theirs]
    for one, other in zip(ours, theirs, strict=True):
        for name in ("samples", "tokens", "tiles", "supervised", "vision_learning_rate"):
            assert one[name] == other[name]
        assert one["loss"] == pytest.approx(other["loss"], rel=1e-5)
        assert one["gradient_norm"] == pytest.approx(other["gradient_norm"], rel=1e-4)
        assert one["loss_by_modality"] == pytest.approx(other["loss_by_modality"], rel=1e-5)
    left, right = (SmolVLM.from_pretrained(path).state_dict() for path in (folder, straight))
    for name, value in left.items():
        torch.testing.assert_close(value, right[name], atol=2e-4, rtol=1e-3, msg=name)


def wait_for_lines(folder, count, ranks):
    log, end = folder / "log.jsonl", time.monotonic() + LIMIT
    while not log.exists() or log.read_text().count("\n") < count:
        assert time.monotonic() < end
        assert all(process.poll() is None for process in ranks.processes)


@pytest.mark.slow
def test_two_ranks_train_as_one_and_one_goes_on_where_two_were(
    run_ranks, train_command, make_trainer, straight, tmp_path, log_lines
):
    folder = tmp_path / "run"
    for rank in run_ranks(train_command(folder, "parallel.sharding=full"), 2, seconds=LIMIT):
        assert rank.code == 0, rank.output
    assert_same_training(folder, straight, log_lines)
    assert (folder / "exit_status").read_text() == "0\n"
    files = {path.name for path in (folder / "checkpoints/latest").glob("*.distcp")}
    assert files == {"__0_0.distcp", "__1_0.distcp"}
    # The step before the encoder trains and the one after it, at another number of ranks.
    for step in (2, 4):
        shutil.copytree(folder, tmp_path / f"{step}", symlinks=True)
        trainer = make_trainer(tmp_path / f"{step}", resume=step)
        assert trainer.state.step == step
        trainer.train()
        assert_same_training(tmp_path / f"{step}", straight, log_lines)


@pytest.mark.slow
def test_two_ranks_go_on_where_one_was(run_ranks, train_command, run_copy, straight, log_lines):
    command = train_command(run_copy, "parallel.sharding=replicate", options=["--resume", "2"])
    for rank in run_ranks(command, 2, seconds=LIMIT):
        assert rank.code == 0, rank.output
    assert_same_training(run_copy, straight, log_lines)


@pytest.mark.slow
def test_two_launch_groups_train_together_with_the_shipped_yaml(
    train_command, rank_environment, free_port, straight, tmp_path, log_lines
):
    folder, port = tmp_path / "run", free_port()
    machines = [
        subprocess.Popen(
            [
                *[*ACCELERATE, "--config_file", YAML, "--num_processes", "2"],
                *["--num_machines", "2", "--machine_rank", str(machine)],
                *["--main_process_ip", "127.0.0.1", "--main_process_port", str(port)],
                *map(str, train_command(folder)),
            ],
            env=rank_environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for machine in range(2)
    ]
    outputs = [process.communicate(timeout=LIMIT)[0] for process in machines]
    assert [process.returncode for process in machines] == [0, 0], outputs
    assert "2 ranks on cpu, full: 1 x 2 ranks" in outputs[0]
    assert outputs[0].count("keys of the launcher without meaning here: fsdp_") == 1
    assert_same_training(folder, straight, log_lines)


@pytest.mark.slow
def test_a_signal_to_one_rank_saves_and_ends_all_in_order(
    start_ranks, run_ranks, train_command, make_trainer, tmp_path, log_lines
):
    settings = ("training.max_steps=30", "checkpoint.every_steps=100")
    make_trainer(tmp_path / "whole", *settings).train()
    folder = tmp_path / "run"
    with start_ranks(train_command(folder, *settings), 2) as ranks:
        wait_for_lines(folder, 2, ranks)
        ranks.processes[1].send_signal(signal.SIGUSR1)
        done = ranks.wait(LIMIT)
    assert [rank.code for rank in done] == [0, 0], done
    assert "Start it again to go on" in done[0].output
    state = read_state(folder / "checkpoints" / "latest")
    assert 2 <= state.step < 30
    late = run_ranks(
        train_command(folder, *settings, options=["--stop-after", "0s"]), 2, seconds=LIMIT
    )
    assert [rank.code for rank in late] == [75, 75], late
    assert (folder / "exit_status").read_text() == "75\n"
    assert read_state(folder / "checkpoints" / "latest") == state
    make_trainer(folder, *settings).train()
    assert_same_training(folder, tmp_path / "whole", log_lines)


LEAVING = """
import os, sys, time
from smolvlm2.training.command_line import run_stage

folder, arguments = sys.argv[1], sys.argv[2:]
if os.environ["RANK"] == "1":
    with open(f"{folder}.pid", "w") as file:
        file.write(str(os.getpid()))

def write_report(run):
    pid, end = open(f"{folder}.pid").read(), time.monotonic() + 5
    while time.monotonic() < end:
        with open(f"/proc/{pid}/stat") as file:  # gone, or a zombie, once it has ended
            if file.read().rsplit(")", 1)[1].split()[0] == "Z":
                raise SystemExit("rank 1 ended first")

run_stage("vision", [*arguments, "--output-dir", folder, "--stop-after", "0s"], at_end=write_report)
"""
"""Ranks that are out of time, rank 0 with more to do at the end than the other."""


@pytest.mark.slow
@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="needs /proc")
def test_no_rank_ends_before_rank_0_has_written_everything(run_ranks, recipe_file, tmp_path):
    # A launcher would kill rank 0 with the first that ends with 75.
    options = ["--device", "cpu", "--config", recipe_file()]
    for rank in run_ranks(["-c", LEAVING, tmp_path / "run", *options], 2, seconds=LIMIT):
        assert rank.code == 75, rank.output


@pytest.mark.slow
def test_a_rank_that_stands_still_is_named(start_ranks, train_command, tmp_path):
    settings = (
        "training.max_steps=1000",
        "checkpoint.every_steps=1000",
        "parallel.timeout_seconds=8",
    )
    with start_ranks(train_command(tmp_path / "run", *settings), 2) as ranks:
        wait_for_lines(tmp_path / "run", 2, ranks)
        os.kill(ranks.processes[1].pid, signal.SIGSTOP)
        output, _ = ranks.processes[0].communicate(timeout=LIMIT)
        os.kill(ranks.processes[1].pid, signal.SIGCONT)
    assert ranks.processes[0].returncode == 2, output
    assert re.search(r"error: step \d+: rank 1 of 2 did not arrive within 8 s", output), output


@pytest.mark.slow
def test_a_loss_that_is_not_finite_is_left_out_by_all_ranks_and_counted(
    run_ranks, train_command, straight, tmp_path, log_lines
):
    start, folder = tmp_path / "start", tmp_path / "run"
    model = SmolVLM.from_pretrained(straight)
    with torch.no_grad():
        model.lm_head.weight[5] = float("nan")
    shutil.copytree(straight, start, symlinks=True)
    model.save_pretrained(start)
    command = train_command(
        folder,
        "training.on_nonfinite=skip",
        "training.max_nonfinite_steps=1",
        options=["--checkpoint", str(start)],
    )
    done = run_ranks(command, 2, seconds=LIMIT)
    assert [rank.code for rank in done] == [2, 2], done
    assert "step 1: loss nan" in done[0].output
    assert "step number 2 left out, more than training.max_nonfinite_steps=1" in done[0].output
    assert "error" not in done[1].output
    (line,) = log_lines(folder)
    assert line["loss"] is None
    assert line["chain"] == log_lines(straight)[0]["chain"]
    assert line["nonfinite"]


@pytest.mark.parametrize(
    "runs",
    [
        pytest.param(3, marks=pytest.mark.slow),
        pytest.param(50, marks=[pytest.mark.long, pytest.mark.timeout(7200)]),
    ],
)
def test_runs_killed_at_any_moment_end_as_one_that_was_not(
    start_ranks, run_ranks, train_command, tmp_path, log_lines, runs
):
    """Of two ranks; every other run goes on with one."""
    settings = (
        "training.max_steps=24",
        "training.unfreeze_vision_after_steps=12",
        "checkpoint.every_steps=3",
    )
    whole, began = tmp_path / "whole", time.monotonic()
    for rank in run_ranks(train_command(whole, *settings), 2, seconds=LIMIT):
        assert rank.code == 0, rank.output
    took, generator = time.monotonic() - began, np.random.default_rng(0)
    killed = 0
    for number in range(runs):
        folder = tmp_path / f"run-{number}"
        with start_ranks(train_command(folder, *settings), 2) as ranks:
            with contextlib.suppress(subprocess.TimeoutExpired):
                ranks.processes[0].wait(timeout=generator.uniform(0, took))
            killed += ranks.processes[0].poll() is None
            for process in ranks.processes:
                process.kill()
        count = 2 - number % 2
        for rank in run_ranks(train_command(folder, *settings), count, seconds=LIMIT):
            assert rank.code == 0, rank.output
        assert_same_training(folder, whole, log_lines)
        if count == 2:
            left, right = (load_file(path / "model.safetensors") for path in (folder, whole))
            assert all(torch.equal(value, right[name]) for name, value in left.items()), number
        assert not audit_run(folder).problems
        shutil.rmtree(folder)
    assert 2 * killed > runs


def test_ranks_that_never_start_are_counted(free_port):
    with pytest.raises(ConfigError, match=r"3 ranks were promised, but 1 arrived .* missing: 1, 2"):
        connect(Launch(size=3, port=free_port()), "cpu", start_timeout=1)
    with pytest.raises(ConfigError, match=r"rank 1 of 2: nobody answers at 127\.0\.0\.1"):
        connect(Launch(rank=1, size=2, port=free_port()), "cpu", start_timeout=1)


def test_more_ranks_than_packs_are_refused_by_all(run_ranks, train_command, tmp_path):
    done = run_ranks(train_command(tmp_path / "run"), 3, seconds=LIMIT)
    assert [rank.code for rank in done] == [2, 2, 2], done
    assert "3 ranks for 2 packs a step" in done[0].output
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
@pytest.mark.parametrize("sharding", ["full", "replicate"])
def test_two_ranks_validate_and_evaluate_as_one(
    run_ranks, train_command, straight, world, tmp_path, log_lines, sharding
):
    """Held-out loss and scores are one process's, and training is as without them."""
    settings = (
        "data.mixture.entries=[{source: cauldron_digits}, {source: video_digits}]",
        "validation.mixture={entries: [{source: text_digits}, {source: m4_digits}]}",
        "validation.every_steps=2",
        "evaluation.benchmarks=[which_digit]",
        f"evaluation.data_root={world / 'data' / 'held_out'}",
        "evaluation.every_steps=3",
        f"parallel.sharding={sharding}",
    )
    folders = {ranks: tmp_path / str(ranks) for ranks in (1, 2)}
    for ranks, folder in folders.items():
        for rank in run_ranks(train_command(folder, *settings), ranks, seconds=LIMIT):
            assert rank.code == 0, rank.output
    plain = tmp_path / "plain"
    without = (*settings[:1], settings[-1])
    for rank in run_ranks(train_command(plain, *without), 2, seconds=LIMIT):
        assert rank.code == 0, rank.output
    lines = {name: log_lines(folder) for name, folder in (*folders.items(), ("plain", plain))}
    assert [line for line in lines[2] if "loss" in line] == lines["plain"]
    for name in ("validation", "metrics"):
        one, two = ([line[name] for line in lines[n] if name in line] for n in (1, 2))
        assert len(one) == len(two) == {"validation": 3, "metrics": 2}[name]
        for ours, theirs in zip(two, one, strict=True):
            assert set(ours) == set(theirs)
            assert all(
                ours[k] == pytest.approx(theirs[k], rel=1e-5) for k in ours if k != "seconds"
            )


SHARED_WORK = """
import os
from smolvlm2.training.distributed import connect
from smolvlm2.training.launch import read_launch
from smolvlm2.training.shared_work import SharedWork
world = connect(read_launch(os.environ), "cpu", timeout=20)
work = SharedWork(world=world)
def fail(where, rank):
    def job():
        for place in range(3):
            if place == where and world.rank == rank:
                raise ValueError(f"rank {rank} at {where}")
            work.gather(place)
        if where == 3 and world.rank == rank:
            raise ValueError(f"rank {rank} at {where}")
        return "done"
    return job
for where in range(4):
    for rank in range(world.size):
        result, failure = work.run(fail(where, rank), at="test")
        assert (result, failure) == (None, f"ValueError: rank {rank} at {where}"), failure
    assert work.run(fail(None, None), at="test") == ("done", None)
print("all met")
world.close()
"""


@pytest.mark.slow
def test_a_failure_of_one_rank_at_any_place_reaches_all_and_leaves_them_in_step(run_ranks):
    for rank in run_ranks(["-c", SHARED_WORK], 2, seconds=LIMIT):
        assert rank.code == 0, rank.output
        assert "all met" in rank.output


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("peft") is None, reason="needs peft: pip install peft")
@pytest.mark.parametrize("sharding", ["full", "replicate"])
def test_adapters_noise_and_chunks_of_tiles_are_the_same_on_two_ranks(
    run_ranks, train_command, make_trainer, tmp_path, log_lines, sharding
):
    settings = (
        "training.adapters.rank=4",
        "training.adapters.alpha=8",
        "training.adapters.trained_embeddings_from=290",
        "training.freeze_vision_encoder=false",
        "training.unfreeze_vision_after_steps=null",
        "training.neftune_alpha=5",
        "encoder.tile_chunk=2",
        "training.max_steps=4",
        f"parallel.sharding={sharding}",
    )
    make_trainer(tmp_path / "one", *settings).train()
    for rank in run_ranks(train_command(tmp_path / "two", *settings), 2, seconds=LIMIT):
        assert rank.code == 0, rank.output
    assert_same_training(tmp_path / "two", tmp_path / "one", log_lines)
