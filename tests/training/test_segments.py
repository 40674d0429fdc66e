"""A run whose data change on the way: declared in the recipe, or asked for on resume."""

import json
import logging

import pytest

from smolvlm2.errors import ResumeError
from smolvlm2.training.audit import audit_run

ONE = "data.mixture.entries=[{source: text_digits}, {source: m4_digits}]"
OTHER = "data.mixture.entries=[{source: text_digits}, {source: cauldron_digits}]"


def segments_of(folder):
    return json.loads((folder / "plan" / "segments.json").read_text())["segments"]


def test_a_curriculum_changes_the_mixture_at_its_step(make_trainer, tmp_path, log_lines):
    later = (
        "segments=[{first_step: 3, mixture: {entries: [{source: text_digits}, "
        "{source: video_digits}]}, gradient_accumulation_steps: 3}]"
    )
    trainer = make_trainer(tmp_path / "run", ONE, later)
    trainer.train()
    first, second = segments_of(tmp_path / "run")
    assert (first["first_step"], second["first_step"]) == (0, 3)
    text = next(source for source in second["sources"] if source["name"] == "text_digits")
    assert text["place"]["following"] > 0
    lines = log_lines(tmp_path / "run")
    assert all("video" not in line["loss_by_modality"] for line in lines[:3])
    assert any("video" in line["loss_by_modality"] for line in lines[3:])
    assert trainer.state.position.segment == 1


def test_a_run_goes_on_inside_a_later_segment_with_the_same_weights(make_trainer, tmp_path):
    later = "segments=[{first_step: 3, mixture: {entries: [{source: cauldron_digits}]}}]"
    make_trainer(tmp_path / "run", ONE, later).train()
    straight = (tmp_path / "run" / "model.safetensors").read_bytes()
    # Step 4 lies in the second segment.
    resumed = make_trainer(tmp_path / "run", ONE, later, resume=4)
    assert (resumed.state.step, resumed.state.position.segment) == (4, 1)
    (tmp_path / "run" / "model.safetensors").unlink()
    resumed.train()
    assert (tmp_path / "run" / "model.safetensors").read_bytes() == straight


def test_another_mixture_is_refused_on_resume_and_taken_with_replan(make_trainer, tmp_path):
    first = make_trainer(tmp_path / "run", ONE)
    first.recipe.training.max_steps = 4
    first.train()
    first.recipe.training.max_steps = 6
    with pytest.raises(ResumeError, match=r"data\.mixture\.entries.* before"):
        make_trainer(tmp_path / "run", OTHER)
    trainer = make_trainer(tmp_path / "run", OTHER, replan=True)
    trainer.train()
    _, after = segments_of(tmp_path / "run")
    assert after["first_step"] == 4
    places = {source["name"]: source["place"] for source in after["sources"]}
    assert places["text_digits"]["following"] > 0
    assert places["cauldron_digits"] == {"following": 0, "left_over": []}
    assert trainer.state.step == 6


@pytest.mark.parametrize("declared", [False, True])
def test_a_source_rests_while_a_segment_does_without_it(make_trainer, tmp_path, declared):
    run, alone = tmp_path / "run", "data.mixture.entries=[{source: text_digits}]"
    if declared:
        entries = [alone, ONE]
        parts = [
            f"{{first_step: {2 + number}, mixture: {{{each.removeprefix('data.mixture.')}}}}}"
            for number, each in enumerate(entries)
        ]
        later = f"segments=[{', '.join(parts)}]".replace("entries=", "entries: ")
        make_trainer(run, ONE, later).train()
        # Between two stops the places are those of the file.
        resumed = make_trainer(run, ONE, later, resume=2)
        resumed.train()
    else:
        for steps, mixture in ((2, ONE), (3, alone), (4, ONE)):
            trainer = make_trainer(run, mixture, replan=steps > 2)
            trainer.recipe.training.max_steps = steps
            trainer.train()
    first, second, third = segments_of(run)
    (resting,) = second["resting"].items()
    compared = next(each for each in third["sources"] if each["name"] == "m4_digits")
    assert resting == (compared["hash"], compared["place"])
    assert compared["place"] != {"following": 0, "left_over": []}
    assert first["resting"] == third["resting"] == {}
    assert audit_run(run).problems == []


def test_a_segment_with_other_sizes_goes_on_in_the_middle_of_a_window(
    make_trainer, tmp_path, caplog
):
    caplog.set_level(logging.INFO)
    first = make_trainer(tmp_path / "run", OTHER)
    first.progress = lambda line: setattr(first.stop, "signal", "SIGTERM")
    first.train()
    after = make_trainer(tmp_path / "run", OTHER, "image.longest_edge=32", replan=True)
    places = dict(zip([t.name for t in after.plan.tables], after.plan.places(1), strict=True))
    assert places["text_digits"].left_over
    assert places["cauldron_digits"].following == 0
    assert "cauldron_digits is new to the run, or changed" in caplog.text
    assert "is passed over" not in caplog.text


def test_going_back_before_other_sizes_needs_a_new_segment(make_trainer, tmp_path):
    first = make_trainer(tmp_path / "run", OTHER)
    first.progress = lambda line: line["step"] < 3 or setattr(first.stop, "signal", "SIGTERM")
    first.train()
    smaller = "image.longest_edge=32"
    make_trainer(tmp_path / "run", OTHER, smaller, replan=True).train()
    with pytest.raises(ResumeError, match="from step 0 the run had other image or video settings"):
        make_trainer(tmp_path / "run", OTHER, smaller, resume=2)
    make_trainer(tmp_path / "run", OTHER, smaller, resume=2, replan=True).train()


def test_changed_data_are_refused_with_the_difference(make_trainer, broken_world, tmp_path):
    override, _ = broken_world
    make_trainer(tmp_path / "run", *override).train()
    path = tmp_path / "run" / "plan" / "segments.json"
    value = json.loads(path.read_text())
    source = value["segments"][0]["sources"][0]
    value["segments"][0]["digest"] = source["hash"] = "of other data"
    source["samples"] += 5
    path.write_text(json.dumps(value))
    wanted = rf"{source['name']} had {source['samples']} samples and has .*--resume --replan"
    with pytest.raises(ResumeError, match=wanted):
        make_trainer(tmp_path / "run", *override)
    trainer = make_trainer(tmp_path / "run", *override, replan=True)
    assert len(trainer.planned.records) == 2


def test_a_run_killed_right_after_it_was_planned_anew_goes_on_in_the_new_segment(
    make_trainer, run_copy
):
    make_trainer(run_copy, OTHER, replan=True, resume=4)  # and is killed before a step
    again = make_trainer(run_copy, OTHER, resume=4)
    assert (again.state.step, again.state.position.segment) == (4, 1)
    again.train()
    assert [each["first_step"] for each in segments_of(run_copy)] == [0, 4]
    assert audit_run(run_copy).problems == []


def test_there_is_nothing_to_plan_anew_in_an_empty_folder(make_trainer, tmp_path):
    with pytest.raises(ResumeError, match="no run to plan anew; leave out --replan"):
        make_trainer(tmp_path / "run", replan=True)


def test_lost_segments_are_refused(make_trainer, run_copy):
    (run_copy / "plan" / "segments.json").write_text("{}")
    with pytest.raises(ResumeError, match="the run's segments cannot be read"):
        make_trainer(run_copy)
