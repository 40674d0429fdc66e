"""The two commands of the specification."""

import re
import subprocess
import sys
import time

import pytest

from smolvlm2.errors import ConfigError, DataNotFoundError
from smolvlm2.model.component_shapes import component_shapes
from smolvlm2.model.hub import write_json
from smolvlm2.training.command_line import (
    check_size,
    parse_arguments,
    read_recipe,
    run_stage,
)
from smolvlm2.training.dry_run import describe, phases
from smolvlm2.training.leaving import exit_on_error
from smolvlm2.training.starting_point import default_folder
from smolvlm2.training.train_video import main as train_video


def recipe_of(stage, *arguments):
    return read_recipe(stage, parse_arguments(stage, arguments))


@pytest.fixture(autouse=True)
def _no_logging_set_up(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    monkeypatch.delenv("DATA_DIR", raising=False)
    monkeypatch.setattr("logging.basicConfig", lambda **_: None)


@pytest.mark.parametrize("size", ["256m", "500m"])
@pytest.mark.parametrize("stage", ["vision", "video"])
def test_the_size_picks_the_specifications_recipe(stage, size):
    recipe = recipe_of(stage, "--model-size", size, "--output-dir", "out")
    assert (recipe.stage, recipe.training.samples_per_step) == (stage, 256)
    assert ("135M" if size == "256m" else "360M") in recipe.model.text_decoder.name


@pytest.mark.parametrize(("batch", "accumulation"), [(1, 32), (4, 8), (32, 1), (64, 1), (256, 1)])
def test_the_batch_size_leaves_the_samples_of_a_step_alone(batch, accumulation):
    training = recipe_of("vision", "--batch-size", str(batch)).training
    assert training.per_device_train_batch_size == batch
    assert training.gradient_accumulation_steps == accumulation
    assert training.samples_per_step == 256


def test_both_numbers_make_another_step():
    arguments = ("--batch-size", "3", "--gradient-accumulation-steps", "2")
    assert recipe_of("vision", *arguments).training.samples_per_step == 48


def test_a_batch_size_that_does_not_fit_is_refused():
    with pytest.raises(ConfigError, match="--batch-size 3 does not divide the recipe's 256"):
        recipe_of("vision", "--batch-size", "3")
    with pytest.raises(ConfigError, match="per_device_train_batch_size is 0"):
        recipe_of("vision", "--batch-size", "0")


def test_keys_follow_the_flags_in_any_order():
    recipe = recipe_of(
        "vision", "training.max_steps=7", "--gradient-checkpointing", "data.workers=0"
    )
    assert (recipe.training.max_steps, recipe.data.workers) == (7, 0)
    assert recipe.training.gradient_checkpointing


def test_checkpointing_by_flag_goes_before_what_a_recipe_has():
    assert recipe_of("video", "--config", "fine_tune").training.checkpointing == "auto"
    recipe = recipe_of("video", "--config", "fine_tune", "--gradient-checkpointing")
    assert recipe.training.checkpointing == "all"


def test_a_recipe_by_file(recipe_file):
    recipe = recipe_of("vision", "--config", str(recipe_file()), "--config", "model_256m")
    assert recipe.training.max_steps == 6
    assert "SmolLM2-135M" in recipe.model.text_decoder.name


def test_the_size_is_the_model_of_a_recipe_that_names_none():
    recipe = recipe_of("vision", "--model-size", "500m", "--config", "train_vision_stage")
    assert recipe.model == recipe_of("vision", "--model-size", "500m").model
    other = recipe_of("vision", "--model-size", "500m", "--config", "tiny/train_vision")
    assert other.model == recipe_of("vision", "--config", "tiny/train_vision").model


def test_a_recipe_that_names_no_model_is_of_the_smaller_one(tmp_path):
    expected = recipe_of("vision").model
    assert recipe_of("vision", "--config", "train_vision_stage").model == expected
    own = tmp_path / "own.yaml"
    own.write_text("training: {max_steps: 7}\n")
    recipe = recipe_of("vision", "--config", "train_vision_stage", "--config", str(own))
    assert (recipe.model, recipe.training.max_steps) == (expected, 7)
    published = recipe_of("vision", "--config", "published/train_vision_stage1").model
    assert published == recipe_of("vision", "--config", "published/model_256m").model != expected


def test_a_size_that_is_not_the_models_has_no_effect_and_says_so(recipe_file, straight):
    config = ["--config", str(recipe_file())]
    for start in ([], ["--checkpoint", str(straight)]):
        options = parse_arguments("vision", ["--model-size", "256m", *config, *start])
        warning = check_size(options, read_recipe("vision", options))
        assert warning is not None
        assert re.search(r"--model-size 256m has no effect: .* width \d+ \(not 576\)", warning)
    options = parse_arguments("vision", [*config, *start, "model.connector.ratio=2"])
    warning = check_size(options, read_recipe("vision", options))
    assert warning is not None
    assert "model.connector.ratio=2 has no effect" in warning
    for arguments in (config, ["--model-size", "500m"]):
        options = parse_arguments("vision", arguments)
        assert check_size(options, read_recipe("vision", options)) is None


def test_the_folder_is_named_after_the_model_that_trains(tmp_path):
    config = component_shapes(recipe_of("vision", "--model-size", "500m").model)
    write_json(config.to_hf(), tmp_path / "config.json")
    recipe = recipe_of("video", "--vision-checkpoint", str(tmp_path))
    assert default_folder(recipe, tmp_path, None) == "checkpoints/video_stage_500m"
    assert default_folder(recipe, tmp_path, "256m") == "checkpoints/video_stage_256m"
    assert default_folder(recipe_of("vision"), None, None) == "checkpoints/vision_stage_256m"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["training.learning_rte=1"], "no such key; did you mean 'learning_rate'"),
        (["nonsense"], "'nonsense' is neither an option nor key=value"),
        (["--config", "train_vison_stage"], "did you mean 'train_vision_stage'"),
        (
            ["--config", "train_video_stage"],
            "is a recipe of the video stage; run it with train_video",
        ),
    ],
)
def test_what_cannot_be_meant_is_refused(arguments, message):
    with pytest.raises(ConfigError, match=message):
        recipe_of("vision", *arguments)


def test_the_video_stage_needs_a_vision_stage():
    with pytest.raises(ConfigError, match="give --vision-checkpoint checkpoints/vision_stage_256m"):
        run_stage("video", [])


def test_a_setting_behind_a_bare_resume_stays_a_setting():
    options = parse_arguments("vision", ["--resume", "training.max_steps=3", "loss.weight=sqrt"])
    assert options.resume == "auto"
    assert options.overrides == ["training.max_steps=3", "loss.weight=sqrt"]
    assert parse_arguments("vision", ["--resume", "500"]).resume == "500"
    assert parse_arguments("vision", ["--resume"]).resume == "auto"
    assert parse_arguments("vision", []).resume is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--resume", "--restart"], "--resume and --restart contradict each other"),
        (["--resume", "last"], "--resume last: expected a step, or auto"),
        (["--skip-steps", "9:3"], "--skip-steps 9:3: expected FIRST:END"),
        (["--stop-after", "soon"], "duration 'soon' is not of the form 3h50m"),
    ],
)
def test_flags_that_cannot_be_meant_are_refused(recipe_file, tmp_path, arguments, message):
    command = ["--config", str(recipe_file()), "--output-dir", str(tmp_path / "o")]
    with pytest.raises(ConfigError, match=message):
        run_stage("vision", [*command, *arguments])
    assert not (tmp_path / "o").exists()


def test_only_rank_0_speaks_in_a_dry_run_and_no_rank_waits(recipe_file, monkeypatch, capsys):
    monkeypatch.setenv("WORLD_SIZE", "8")
    for rank in ("0", "7"):
        monkeypatch.setenv("RANK", rank)
        run_stage("vision", ["--config", str(recipe_file()), "--dry-run"])
        assert bool(capsys.readouterr().out) is (rank == "0")


def test_a_run_out_of_time_saves_and_ends_with_status_75(recipe_file, tmp_path, straight, capsys):
    output = tmp_path / "run"
    arguments = ["--config", str(recipe_file()), "--output-dir", str(output), "--device", "cpu"]
    with pytest.raises(SystemExit) as ended:
        run_stage("vision", [*arguments, "--stop-after", "0s"])
    assert ended.value.code == 75
    assert "0 of 6 steps, 0 samples; asked to stop. Start it again" in capsys.readouterr().out
    assert (output / "exit_status").read_text() == "75\n"
    run_stage("vision", [*arguments, "--resume"])
    weights = (output / "model.safetensors").read_bytes()
    assert weights == (straight / "model.safetensors").read_bytes()
    assert (output / "exit_status").read_text() == "0\n"


def test_an_error_is_one_line_and_status_2(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["train_video"])
    with pytest.raises(SystemExit) as exit_:
        train_video()
    assert exit_.value.code == 2
    assert capsys.readouterr().err.startswith("error: the video stage starts from")


def test_missing_data_are_told_before_anything_is_looked_for_on_the_hub(tmp_path):
    code = (
        "import sys; from smolvlm2.training.train_vision import main\n"
        "try: main()\nfinally: print(sorted({'torch', 'huggingface_hub'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, f"data.root={tmp_path}"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        check=False,
    )
    assert done.returncode == 2
    assert "prepared: no such folder; prepare the data first (smolvlm2 prepare)" in done.stderr
    assert done.stdout == "[]\n"


def test_of_ranks_that_miss_their_data_one_a_machine_says_so(
    recipe_file, tmp_path, monkeypatch, capsys
):
    command = ["--config", str(recipe_file(f"data.root={tmp_path}"))]
    monkeypatch.setenv("WORLD_SIZE", "4")
    for rank, local in (("0", "0"), ("1", "1"), ("2", "0"), ("3", "1")):
        monkeypatch.setenv("RANK", rank)
        monkeypatch.setenv("LOCAL_RANK", local)
        with pytest.raises(SystemExit, match="2"):
            exit_on_error(lambda: run_stage("vision", command))
        assert bool(capsys.readouterr().err) is (local == "0")


def test_missing_data_name_the_command_at_once(recipe_file, tmp_path):
    started = time.process_time()
    with pytest.raises(DataNotFoundError, match="smolvlm2 prepare"):
        run_stage(
            "vision",
            [
                "--config",
                str(recipe_file(f"data.root={tmp_path}")),
                "--output-dir",
                str(tmp_path / "o"),
            ],
        )
    assert time.process_time() - started < 1
    assert not (tmp_path / "o").exists()


def test_a_run_from_the_command_line(recipe_file, tmp_path, straight, capsys):
    output = tmp_path / "run"
    arguments = ["--config", str(recipe_file()), "--output-dir", str(output), "--device", "cpu"]
    run_stage("vision", arguments)
    assert (output / "model.safetensors").read_bytes() == (
        straight / "model.safetensors"
    ).read_bytes()
    assert f"{output}: 6 of 6 steps" in capsys.readouterr().out
    run_stage("vision", [*arguments, "--restart"])
    assert (output / "model.safetensors").read_bytes() == (
        straight / "model.safetensors"
    ).read_bytes()


@pytest.mark.parametrize(
    ("stage", "size", "expected"),
    [
        ("vision", "256m", ["253,044,288", "steps 0-9999", "steps 10000-49999"]),
        ("video", "256m", ["253,044,288", "256 = 4 x 8 x 8 devices"]),
        ("vision", "500m", ["256 = 8 x 4 x 8 devices"]),
    ],
)
def test_a_dry_run_prints_what_follows_from_the_recipe(stage, size, expected, tmp_path):
    done = subprocess.run(
        [
            *(sys.executable, "-m", f"smolvlm2.training.train_{stage}", "--dry-run"),
            *("--model-size", size, f"data.root={tmp_path}"),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    lines = dict(
        line.split(maxsplit=4)[3:] for line in done.stdout.splitlines() if "tokens per" in line
    )
    assert lines == {"tile": "64"}
    for text in (*expected, "data not prepared", "16384 tokens", "# memory"):
        assert text in done.stdout


def test_a_dry_run_over_prepared_data_prints_the_plan(make_recipe, straight):
    for checkpoint in (None, straight):
        text = describe(make_recipe(), checkpoint)
        assert "cauldron_digits" in text
        assert "packs_per_step               2" in text
        assert "# cost with full packs, 2 a step" in text


def test_a_dry_run_ends_with_its_sources(make_recipe):
    text = describe(make_recipe("data.mixture.epochs=1", "training.max_steps=100000"))
    end = int(text.split("steps_until_sources_end")[1].split()[0])
    assert end < 100000
    assert f"-{end - 1} " in text
    assert "-99999" not in text


def test_a_dry_run_costs_what_the_paper_figures_say(tmp_path):
    recipe = recipe_of(
        "vision", "--config", "published/model_256m", "--config", "train_vision_stage"
    )
    recipe.data.root = str(tmp_path)
    costs = [line.split() for line in describe(recipe).split("# cost")[1].splitlines()[2:]]
    assert [cost[1] for cost in costs] == ["0-9999", "10000-49999"]
    # 256 samples of 10.83 tiles and 1,072 tokens: 214 GFLOP a tile forward, 637 MFLOP a token.
    tiles, tokens = 0.98 * 256 * 10.83, 0.98 * 256 * 1072
    for cost, passes in zip(costs, (1, 3), strict=True):
        products = tiles * passes * 0.2138 + tokens * 0.000637
        assert products < float(cost[2]) < 1.12 * products
    assert float(costs[1][3]) == pytest.approx(40_000 * float(costs[1][2]) / 1e6, rel=1e-3)


@pytest.mark.parametrize("start", ["0", "6", "null"])
def test_a_phase_without_steps_is_not_listed(make_recipe, start):
    recipe = make_recipe(f"training.unfreeze_vision_after_steps={start}")
    assert phases(recipe) == [("steps 0-5", 0, 6)]
