"""The folder of a run."""

import json
import os
import shutil

import pytest

from smolvlm2.config import load_config, to_dict
from smolvlm2.errors import ResumeError
from smolvlm2.training.recipe import Recipe
from smolvlm2.training.run_folder import JsonLines, RunFolder


@pytest.fixture
def folder(tmp_path):
    return RunFolder(tmp_path / "run")


def add_step(folder, number):
    partial = folder.root / "checkpoints" / f".step-{number:08d}.partial"
    partial.mkdir(parents=True)
    (partial / "content").write_text(str(number))
    return partial


def test_the_recipe_is_saved_and_loads_equal(straight, make_recipe):
    assert to_dict(load_config(Recipe, straight / "config.yaml")) == to_dict(make_recipe())


def test_a_new_folder_begins_and_a_run_with_checkpoints_goes_on(folder, make_recipe):
    recipe = make_recipe()
    assert folder.check(recipe, restart=False) is False
    folder.begin(recipe, resumed=False)
    assert folder.check(recipe, restart=False) is False  # no checkpoint yet
    folder.publish_step(add_step(folder, 2), 2, keep=1)
    assert folder.check(recipe, restart=False) is True
    assert folder.check(recipe, restart=True) is False
    folder.begin(recipe, resumed=True)
    assert len(folder.steps()) == 1
    folder.begin(recipe, resumed=False)
    assert folder.steps() == []


def test_another_recipe_is_refused_with_the_difference(run_copy, make_recipe):
    recipe = make_recipe("training.learning_rate=0.5", "training.seed=1")
    expected = r"training.learning_rate: 0.001 before, 0.5 now; training.seed: 42 before, 1 now"
    with pytest.raises(ResumeError, match=expected):
        RunFolder(run_copy).check(recipe, restart=False)
    assert RunFolder(run_copy).check(recipe, restart=True) is False


def test_other_data_are_refused_with_both_ways_out(run_copy, make_recipe):
    many = ", ".join(f"{{source: s{number}}}" for number in range(107))
    recipe = make_recipe(f"data.mixture.entries=[{{source: text_digits, weight: 1}}, {many}]")
    with pytest.raises(ResumeError, match=r"these from here on \(--resume --replan: a") as told:
        RunFolder(run_copy).check(recipe, restart=False)
    message = str(told.value)
    assert "4 in all, among them {'source': 'cauldron_digits', 'weight': 1.0" in message
    assert "108 in all, among them {'source': 's0'" in message
    assert "and 104 more now" in message
    assert "text_digits" not in message
    assert len(message) < 900
    assert RunFolder(run_copy).check(recipe, restart=False, replan=True) is True
    with pytest.raises(ResumeError, match="saved settings, or choose another --output-dir, or"):
        RunFolder(run_copy).check(
            make_recipe("image.longest_edge=32", "training.seed=1"), restart=False
        )


def test_what_leaves_the_result_alone_may_change(run_copy, make_recipe):
    recipe = make_recipe(
        "data.root=elsewhere",
        "data.workers=5",
        "data.sample_timeout_s=9",
        "checkpoint.keep=9",
        "training.threads=3",
        "data.skip_ids=[a]",
        "training.max_skip_fraction=1",
        "training.compile=true",
        "training.gradient_checkpointing=false",
        "training.profile={first_step: 3}",
    )
    assert RunFolder(run_copy).check(recipe, restart=False) is True


def test_a_saved_recipe_that_no_longer_loads_is_refused(run_copy, make_recipe):
    path = run_copy / "config.yaml"
    path.write_text(path.read_text() + "unheard: 1\n")
    with pytest.raises(ResumeError, match="saved recipe is not valid here"):
        RunFolder(run_copy).check(make_recipe(), restart=False)


@pytest.mark.parametrize("name", ["model.safetensors", "checkpoints", "tokenizer.json"])
@pytest.mark.parametrize("restart", [False, True])
@pytest.mark.parametrize("config", [None, "lr: 1\n", "not: [yaml"])
def test_a_strangers_folder_is_refused_and_left_alone(folder, make_recipe, name, restart, config):
    (folder.root / name).mkdir(parents=True)
    if config:
        (folder.root / "config.yaml").write_text(config)
    before = sorted(os.listdir(folder.root))
    with pytest.raises(ResumeError, match=f"holds {name} but is not the folder of a run"):
        folder.check(make_recipe(), restart=restart)
    assert sorted(os.listdir(folder.root)) == before


def test_files_of_others_beside_a_run_stay(run_copy, make_recipe):
    (run_copy / "notes.txt").write_text("mine")
    (run_copy / "report").mkdir()
    RunFolder(run_copy).begin(make_recipe(), resumed=False)
    assert {"notes.txt", "report"} <= set(os.listdir(run_copy))
    assert not (run_copy / "model.safetensors").exists()
    assert not (run_copy / "checkpoints").exists()


def test_a_file_is_no_output_folder(folder, make_recipe):
    folder.root.write_text("")
    with pytest.raises(ResumeError, match="is a file; choose another --output-dir"):
        folder.check(make_recipe(), restart=False)


def test_an_export_whose_checkpoints_were_removed_is_kept(run_copy, make_recipe):
    shutil.rmtree(run_copy / "checkpoints")
    with pytest.raises(ResumeError, match="export of a run without its checkpoints"):
        RunFolder(run_copy).check(make_recipe(), restart=False)


def test_publishing_moves_latest_and_prunes(folder):
    for number in (2, 4, 6):
        folder.publish_step(add_step(folder, number), number, keep=2)
    assert [step.name for step in folder.steps()] == ["step-00000004", "step-00000006"]
    latest = folder.root / "checkpoints" / "latest"
    assert latest.is_symlink()
    assert (latest / "content").read_text() == "6"


def test_a_run_that_was_copied_with_its_links_followed_goes_on(folder):
    # As object stores do: `latest` is a folder of its own.
    folder.publish_step(add_step(folder, 2), 2, keep=2)
    latest = folder.root / "checkpoints" / "latest"
    latest.unlink()
    shutil.copytree(folder.root / "checkpoints" / "step-00000002", latest)
    assert [step.name for step in folder.resumable()] == ["step-00000002"]
    folder.publish_step(add_step(folder, 4), 4, keep=2)
    assert os.readlink(latest) == "step-00000004"


def test_a_broken_newer_step_does_not_push_out_the_new_one(folder):
    for number in (2, 4, 6):
        folder.publish_step(add_step(folder, number), number, keep=3)
    folder.publish_step(add_step(folder, 4), 4, keep=1)
    assert [step.name for step in folder.steps()] == ["step-00000004", "step-00000006"]
    assert os.readlink(folder.root / "checkpoints" / "latest") == "step-00000004"


def test_log_lines_from_a_step_on_are_cut_and_half_a_line_is_dropped(tmp_path):
    lines = JsonLines(tmp_path / "log.jsonl")
    assert list(lines) == []
    lines.mend()
    for step in range(4):
        lines.append({"step": step})
    with lines.path.open("a") as file:
        file.write('{"step": 4, "lo')
    assert [line["step"] for line in lines] == [0, 1, 2, 3]
    lines.mend()
    lines.append({"step": 9})
    assert [json.loads(line)["step"] for line in lines.path.read_text().splitlines()] == [
        0,
        1,
        2,
        3,
        9,
    ]
    lines.cut(2)
    assert [line["step"] for line in lines] == [0, 1]
