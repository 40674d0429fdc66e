"""Full disks, unwritable folders, signals at bad moments, changed bits: nothing is lost."""

import errno
import os
import pickle
import resource
import shutil
import signal

import pytest
import torch
from torch.distributed.checkpoint.api import CheckpointException

from smolvlm2.errors import CheckpointError, ResumeError, TrainingError
from smolvlm2.training import checkpoints
from smolvlm2.training.checkpoints import find_checkpoint, read_state
from smolvlm2.training.run_folder import JsonLines, RunFolder


def steps_of(folder):
    return [path.name for path in sorted((folder / "checkpoints").glob("step-*"))]


def flip_a_bit(path):
    with path.open("r+b") as file:
        file.seek(path.stat().st_size // 2)
        byte = file.read(1)[0]
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte ^ 1]))


@pytest.fixture
def small_disk():
    """Make files longer than so many bytes fail; ``small_disk(None)`` ends it."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)

    def limit(size):
        resource.setrlimit(resource.RLIMIT_FSIZE, (size or before[0], before[1]))

    yield limit
    limit(None)


@pytest.mark.parametrize("background", ["false", "true"])
def test_a_full_disk_costs_one_checkpoint_and_a_warning(
    make_trainer, straight, tmp_path, small_disk, caplog, log_lines, background
):
    setting = f"checkpoint.background={background}"
    trainer = make_trainer(tmp_path / "run", setting)
    # Full while step 4 is saved, which is after line 3.
    trainer.progress = lambda line: small_disk({3: 20_000}.get(line["step"]))
    trainer.train()
    assert "checkpoint step-00000004 could not be written" in caplog.text
    assert "File too large" in caplog.text
    assert steps_of(tmp_path / "run") == ["step-00000002", "step-00000006"]
    assert not list((tmp_path / "run/checkpoints").glob(".step*"))
    weights = (tmp_path / "run" / "model.safetensors").read_bytes()
    assert weights == (straight / "model.safetensors").read_bytes()
    assert log_lines(tmp_path / "run") == log_lines(straight)


@pytest.mark.parametrize("told", [False, True])
def test_a_full_disk_is_named_where_torch_hides_it(told):
    try:
        try:
            raise OSError(28, "No space left on device")
        except OSError:
            raise RuntimeError(
                "[enforce fail at inline_container.cc:672] . unexpected pos"
            ) from None
    except RuntimeError as error:
        sent = pickle.loads(pickle.dumps(error)) if told else error  # by another rank
    reason = checkpoints._reason(CheckpointException("save", {0: (sent, None)}))
    assert ("full disk" if told else "No space left on device") in reason


def test_a_disk_that_stays_full_ends_the_run_with_the_last_good_checkpoint(
    make_trainer, straight, tmp_path, small_disk, log_lines
):
    trainer = make_trainer(tmp_path / "run")
    trainer.progress = lambda line: small_disk(20_000 if line["step"] >= 2 else None)
    with pytest.raises(CheckpointError, match=r"could not be written .*earlier ones are as they"):
        trainer.train()
    small_disk(None)
    assert steps_of(tmp_path / "run") == ["step-00000002"]
    make_trainer(tmp_path / "run").train()
    assert log_lines(tmp_path / "run") == log_lines(straight)


def test_a_folder_that_cannot_be_written_is_named(make_trainer, straight, tmp_path):
    # /proc is a folder that nobody can write to, whoever runs the tests.
    with pytest.raises(ResumeError, match=r"/proc/run: cannot be written to .*--output-dir"):
        make_trainer("/proc/run")


def test_a_disk_that_fills_up_while_a_run_is_resumed_is_told_to_all_ranks(
    make_trainer, run_copy, monkeypatch
):
    def full(log, lines):
        raise OSError(errno.ENOSPC, "No space left on device", str(log.path))

    monkeypatch.setattr(JsonLines, "replace", full)
    with pytest.raises(TrainingError, match=r"log\.jsonl: No space left on device; free space"):
        make_trainer(run_copy)


def test_a_signal_during_a_save_waits_for_it(
    make_trainer, straight, tmp_path, monkeypatch, log_lines
):
    trainer = make_trainer(tmp_path / "run")
    hash_file = checkpoints.hash_file

    def interrupted(path):
        os.kill(os.getpid(), signal.SIGTERM)
        return hash_file(path)

    monkeypatch.setattr(checkpoints, "hash_file", interrupted)
    assert trainer.train() == "signal"
    monkeypatch.undo()
    assert steps_of(tmp_path / "run") == ["step-00000002"]
    read_state(tmp_path / "run/checkpoints/latest")
    assert not (tmp_path / "run/model.safetensors").exists()
    assert make_trainer(tmp_path / "run").train() == "finished"
    assert log_lines(tmp_path / "run") == log_lines(straight)


def test_the_clock_decides_nothing(make_trainer, run_copy):
    for number, folder in enumerate(sorted((run_copy / "checkpoints").glob("step-*"))):
        os.utime(folder, (1000 - number, 1000 - number))
    assert make_trainer(run_copy).state.step == 6


def test_a_flipped_bit_is_refused_by_name_and_the_one_before_used(
    run_copy, world_of_one, caplog, make_trainer
):
    flip_a_bit(run_copy / "checkpoints" / "step-00000006" / "__0_0.distcp")
    folder, state = find_checkpoint(RunFolder(run_copy), world_of_one)
    assert (folder.name, state.step) == ("step-00000004", 4)
    assert "__0_0.distcp: its content is not what was written" in caplog.text
    with pytest.raises(CheckpointError, match=r"__0_0\.distcp: its content .* --resume auto"):
        make_trainer(run_copy, resume=6)


def test_a_step_that_is_not_there_is_refused_with_those_that_are(make_trainer, run_copy):
    with pytest.raises(ResumeError, match="no checkpoint of step 5; there are: 2, 4, 6"):
        make_trainer(run_copy, resume=5)


def test_a_half_written_checkpoint_is_none(make_trainer, run_copy):
    half = run_copy / "checkpoints" / ".step-00000008.partial"
    shutil.copytree(run_copy / "checkpoints" / "step-00000006", half)
    assert make_trainer(run_copy).state.step == 6
    assert not half.exists()


def test_a_resumed_branch_replaces_the_one_it_left(make_trainer, run_copy):
    trainer = make_trainer(run_copy, resume=2)
    assert steps_of(run_copy)[-1] == "step-00000006"
    # Killed at once and started again, it goes on from the branch, not from what it left.
    assert make_trainer(run_copy).state.step == 2
    trainer.train()
    assert os.readlink(run_copy / "checkpoints" / "latest") == "step-00000006"


@pytest.mark.parametrize("where", ["forward", "update"])
def test_want_of_memory_names_the_step_and_the_ways_out(make_trainer, tmp_path, where):
    trainer = make_trainer(tmp_path / "run")

    def fail(*_):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.\nMore words")

    if where == "forward":
        trainer.model.connector.register_forward_pre_hook(fail)
    else:
        trainer.updater.optimizer.register_step_pre_hook(fail)
    expected = (
        r"step 0: not enough memory on cpu \(CUDA out of memory. Tried .* 2 GiB.\)\. In .*auto"
    )
    with pytest.raises(TrainingError, match=expected):
        trainer.train()
