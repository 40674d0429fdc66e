"""Data that a run leaves out on purpose."""

import shutil
from dataclasses import replace

import pytest

from smolvlm2.errors import ConfigError, ResumeError
from smolvlm2.plan.plan import Position
from smolvlm2.training.checkpoints import read_state
from smolvlm2.training.passed_over import parse_range, pass_over, ranges_of, record_range
from smolvlm2.training.run_folder import RunFolder


@pytest.fixture
def run(tmp_path):
    (tmp_path / "plan").mkdir()
    return RunFolder(tmp_path)


def test_a_range_is_read():
    assert parse_range("1200:1210") == (1200, 1210)


@pytest.mark.parametrize("text", ["5", "5:5", "9:3", "a:b", "1:2:3"])
def test_other_words_are_no_ranges(text):
    with pytest.raises(ConfigError, match="expected FIRST:END with FIRST below END"):
        parse_range(text)


def test_a_range_is_written_down_once(run):
    record_range(run, (7, 9), step=5)
    record_range(run, (3, 4), step=2)
    record_range(run, (7, 9), step=8)  # the same command again, later
    assert ranges_of(run) == [(3, 4), (7, 9)]


def test_a_range_behind_the_run_is_refused(run):
    with pytest.raises(ResumeError, match=r"goes on from step 8, .* \(--resume STEP\)"):
        record_range(run, (7, 9), step=8)


def test_two_ranges_that_begin_together_are_refused(run):
    record_range(run, (7, 9), step=5)
    with pytest.raises(ResumeError, match="passes over 7:9 already"):
        record_range(run, (7, 12), step=5)


def test_the_step_gets_the_data_of_the_end_of_the_range(make_trainer, tmp_path):
    plan = make_trainer(tmp_path / "run").plan
    expected = position = Position()
    for _ in range(3):
        _, expected = plan.step(expected)
    assert pass_over(plan, [(4, 7)], 4, position) == replace(expected, step=position.step)
    assert pass_over(plan, [(4, 7)], 5, position) == position


def test_a_run_goes_on_without_the_data(make_trainer, run_copy, straight, log_lines):
    trainer = make_trainer(run_copy, resume=4, skip_steps=(5, 7))
    assert trainer.state.step == 4
    trainer.train()
    ours, theirs = log_lines(run_copy), log_lines(straight)
    assert ours[:5] == theirs[:5]
    assert ours[5]["step"] == 5
    assert ours[5]["chain"] != theirs[5]["chain"]
    assert ranges_of(trainer.run) == [(5, 7)]
    # Killed and started again without the flag, it leaves out the same.
    again = make_trainer(run_copy, resume=4)
    again.train()
    assert log_lines(run_copy) == ours


def test_a_run_stopped_in_front_of_the_gap_passes_it_over_once(
    make_trainer, run_copy, tmp_path, log_lines
):
    shutil.copytree(run_copy, tmp_path / "other", symlinks=True)
    make_trainer(run_copy, resume=4, skip_steps=(5, 7)).train()
    trainer = make_trainer(tmp_path / "other", resume=4, skip_steps=(5, 7))
    trainer.progress = lambda line: setattr(trainer.stop, "signal", "SIGTERM")
    assert trainer.train() == "signal"
    again = make_trainer(tmp_path / "other")
    assert again.state.step == 5
    again.train()
    assert log_lines(tmp_path / "other") == log_lines(run_copy)


def test_a_later_segment_goes_on_behind_what_is_passed_over_before_it(
    make_trainer, tmp_path, log_lines
):
    later = (
        "segments=[{first_step: 4, gradient_accumulation_steps: 1}]",
        "checkpoint.every_steps=1",
        "checkpoint.keep=9",
    )
    run, other = tmp_path / "run", tmp_path / "other"
    first = make_trainer(run, *later)
    first.progress = lambda line: setattr(first.stop, "signal", "SIGTERM" if line["step"] else None)
    first.train()
    shutil.copytree(run, other, symlinks=True)
    make_trainer(other, *later).train()  # gets to the segment without the gap
    for folder in (run, other):
        make_trainer(folder, *later, resume=2, skip_steps=(3, 4)).train()
    assert log_lines(run) == log_lines(other)


def test_data_passed_over_before_a_segment_cost_it_no_steps(make_trainer, tmp_path):
    once = ("data.mixture.epochs=1", "training.max_steps=100", "checkpoint.keep=20")
    make_trainer(tmp_path / "run", *once).train()
    make_trainer(tmp_path / "run", *once, resume=2, skip_steps=(3, 5)).train()
    samples = read_state(tmp_path / "run" / "checkpoints" / "latest").samples
    trainer = make_trainer(tmp_path / "run", *once, resume=6, replan=True)
    trainer.train()
    assert trainer.state.samples == samples


def test_more_than_there_are_data_is_refused_and_not_written_down(make_trainer, tmp_path):
    once = ("data.mixture.epochs=1", "training.max_steps=100", "checkpoint.keep=20")
    whole = make_trainer(tmp_path / "run", *once)
    whole.train()
    most = whole.state.step - 4  # steps 0 to 2 are there, and one behind the gap
    too_many = (3, 3 + most + 1)
    with pytest.raises(ResumeError, match=f"no data for step 3; pass over at most {most} steps"):
        make_trainer(tmp_path / "run", *once, resume=2, skip_steps=too_many)
    trainer = make_trainer(tmp_path / "run", *once, resume=2, skip_steps=(3, 3 + most))
    trainer.train()
    assert trainer.state.step == 4


def test_without_a_run_there_is_nothing_to_pass_over(make_trainer, tmp_path):
    with pytest.raises(ResumeError, match="no run to go on with --skip-steps 1:2"):
        make_trainer(tmp_path / "run", skip_steps=(1, 2))
    with pytest.raises(ResumeError, match="no run to go on from step 4"):
        make_trainer(tmp_path / "run", resume=4)
