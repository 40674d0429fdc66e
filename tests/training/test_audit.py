"""An audit passes what was trained as planned, and nothing else."""

import json
import shutil

import pytest

from smolvlm2.cli.audit import print_audit
from smolvlm2.errors import AuditError, ResumeError
from smolvlm2.loading.reader import PackReader
from smolvlm2.training.audit import audit_run


def rewrite(path, change):
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    change(lines)
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def test_a_run_that_was_not_interrupted_passes(straight, capsys):
    report = audit_run(straight)
    assert (report.checked, report.problems, report.unplanned) == (6, [], [])
    assert report.samples == sum(
        json.loads(line)["samples"] for line in (straight / "log.jsonl").read_text().splitlines()
    )
    assert print_audit(straight, None) == 0
    assert "every step trained on what was planned" in capsys.readouterr().out


def test_skips_left_out_samples_segments_and_passed_over_data_are_taken_into_account(
    make_trainer, broken_world, tmp_path
):
    override, broken = broken_world
    later = "segments=[{first_step: 3, mixture: {entries: [{source: cauldron_digits}]}}]"
    options = [*override, later, "training.max_skip_fraction=1"]
    part = make_trainer(tmp_path / "run", *options)
    part.recipe.training.max_steps = 2
    part.train()
    part.recipe.training.max_steps = 6
    (tmp_path / "run" / "config.json").unlink()
    ids = part.reader.manifests[0].sample_id(0), part.reader.manifests[0].sample_id(2)
    left_out = f"data.skip_ids={json.dumps(ids)}"
    make_trainer(tmp_path / "run", *options, left_out, skip_steps=(2, 4)).train()
    report = audit_run(tmp_path / "run")
    assert (report.checked, report.problems, report.unplanned) == (6, [], [])
    skips = (tmp_path / "run" / "skips.jsonl").read_text().splitlines()
    assert report.skipped == len(skips) > 0
    assert {json.loads(line)["sample_id"] for line in skips} == {broken}


def test_a_run_with_shuffled_turns_resumes_to_the_bit_and_only_with_the_same_orders(
    make_trainer, tmp_path
):
    turns = ("limits.max_turns=2", "limits.turn_orders=2")
    make_trainer(tmp_path / "straight", *turns).train()
    first = make_trainer(tmp_path / "run", *turns)
    first.progress = lambda line: setattr(first.stop, "signal", "SIGTERM")
    first.train()
    with pytest.raises(ResumeError, match=r"limits\.turn_orders: 2 before, 3 now"):
        make_trainer(tmp_path / "run", turns[0], "limits.turn_orders=3")
    make_trainer(tmp_path / "run", *turns).train()
    report = audit_run(tmp_path / "run")
    assert (report.checked, report.problems, report.unplanned) == (6, [], [])
    weights = [(tmp_path / n / "model.safetensors").read_bytes() for n in ("straight", "run")]
    assert weights[0] == weights[1]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda lines: lines[2].update(chain="0" * 16), "step 2: the samples that were loaded"),
        (lambda lines: lines[2].update(samples=1), "step 2: 1 samples were loaded; the plan has"),
        (lambda lines: lines.pop(3), "line 4 of the log is of step 4; expected step 3"),
    ],
)
def test_a_tampered_log_fails(run_copy, change, message, capsys):
    rewrite(run_copy / "log.jsonl", change)
    report = audit_run(run_copy)
    assert report.problems[0].startswith(message)
    assert print_audit(run_copy, None) == 1
    assert "problem: " in capsys.readouterr().out


def test_a_skip_that_was_not_recorded_fails(make_trainer, broken_world, tmp_path):
    override, _ = broken_world
    options = [*override, "training.max_skip_fraction=1", "training.max_steps=16"]
    make_trainer(tmp_path / "run", *options).train()
    assert not audit_run(tmp_path / "run").problems
    rewrite(tmp_path / "run" / "skips.jsonl", list.clear)
    assert "samples were loaded; the plan has" in audit_run(tmp_path / "run").problems[0]


def test_a_skip_holds_from_its_record_on(make_trainer, world, tmp_path):
    """A source that begins anew shows once more what was read before, in a first epoch again."""
    shutil.copytree(world / "data", tmp_path / "data")
    options = [
        f"data.root={tmp_path / 'data'}",
        "data.mixture.entries=[{source: cauldron_digits}]",
        "training.max_skip_fraction=1",
    ]
    first = make_trainer(tmp_path / "run", *options)
    first.progress = lambda line: setattr(first.stop, "signal", "SIGTERM")
    first.train()
    for path in {tmp_path / "data" / row.media[0].path for row in rows_of(first)}:
        path.unlink()
    again = make_trainer(tmp_path / "run", *options, "image.longest_edge=32", replan=True)
    again.train()
    assert [place.following for place in again.planned.plan.places(1)] == [0]
    report = audit_run(tmp_path / "run")
    assert (report.checked, report.problems, report.unplanned) == (6, [], [])
    assert report.samples == next(iter(first.run.log))["samples"]
    assert report.skipped > report.samples


def rows_of(trainer):
    manifest = trainer.reader.manifests[0]
    return [manifest.row(row) for row in range(len(manifest))]


def test_a_loader_that_swaps_two_samples_fails(make_trainer, tmp_path, monkeypatch):
    plain = PackReader.planned

    def swapped(self, pack):
        found = plain(self, pack)
        if len(found) > 1 and pack.tokens % 2:
            found[0], found[1] = found[1], found[0]
        return found

    monkeypatch.setattr(PackReader, "planned", swapped)
    make_trainer(tmp_path / "run").train()
    problems = audit_run(tmp_path / "run").problems
    assert problems
    assert "the samples that were loaded are not those of the plan" in problems[0]


def test_steps_whose_data_are_gone_are_named(run_copy, make_trainer, tmp_path):
    report = audit_run(run_copy, data_root=str(tmp_path / "nowhere"))
    assert report.checked == 0
    assert "steps 0 to 5" in report.unplanned[0]
    assert print_audit(run_copy, str(tmp_path / "nowhere")) == 1


def test_a_folder_without_a_run_is_refused(tmp_path, run_copy):
    with pytest.raises(AuditError, match=r"no log\.jsonl with steps"):
        audit_run(tmp_path)
    shutil.rmtree(run_copy / "plan")
    with pytest.raises(AuditError, match="the run's segments cannot be read"):
        audit_run(run_copy)
