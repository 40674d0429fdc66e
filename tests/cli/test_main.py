"""The command line: errors, recipes, and what needs no checkpoint."""

import sys
from pathlib import Path

import pytest
import torch

from smolvlm2 import __version__, config
from smolvlm2.cli import main as command_line
from smolvlm2.cli import recipes
from smolvlm2.cli.checkpoint import choose_device
from smolvlm2.errors import ConfigError


@pytest.fixture
def run(monkeypatch, capsys):
    """Run the command with arguments; returns status, standard output, standard error."""

    def run_command(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["smolvlm2", *arguments])
        with pytest.raises(SystemExit) as stop:
            command_line.main()
        captured = capsys.readouterr()
        return int(stop.value.code or 0), captured.out, captured.err

    return run_command


@pytest.fixture
def shipped(tmp_path, monkeypatch):
    """A folder of recipes instead of the real one."""
    (tmp_path / "published").mkdir()
    (tmp_path / "base.yaml").write_text("# The model\nmodel: {image_size: 384, depth: 2}\n")
    (tmp_path / "train.yaml").write_text("extends: base.yaml\ntraining: {max_steps: 5}\n")
    (tmp_path / "published/train.yaml").write_text("model: {image_size: 512, depth: 2, name: x}")
    monkeypatch.setattr(config, "recipes_folder", lambda: tmp_path)
    monkeypatch.setattr(recipes, "recipes_folder", lambda: tmp_path)
    return tmp_path


def test_version_is_printed(run):
    assert run("version") == (0, f"{__version__}\n", "")


def test_a_users_error_is_one_line_and_status_2(run, shipped):
    status, out, err = run("recipes", "show", "trian")
    assert (status, out) == (2, "")
    assert err == "error: trian: no such file or recipe; did you mean 'train'?\n"


def test_other_errors_keep_their_traceback(monkeypatch):
    def fail() -> None:
        raise ZeroDivisionError("a defect")

    monkeypatch.setattr(command_line, "app", fail)
    with pytest.raises(ZeroDivisionError, match="a defect"):
        command_line.main()


def test_recipes_are_listed_with_their_first_comment(run, shipped):
    status, out, _ = run("recipes")
    assert (status, out.splitlines()) == (
        0,
        ["base             The model", "published/train", "train"],
    )


def test_show_merges_what_a_recipe_extends(run, shipped):
    _, out, _ = run("recipes", "show", "train")
    assert config.yaml.safe_load(out) == {
        "model": {"image_size": 384, "depth": 2},
        "training": {"max_steps": 5},
    }


def test_diff_shows_both_values_and_the_reason(run, shipped):
    status, out, _ = run("recipes", "diff", "train")
    assert status == 0
    assert "model.image_size\n  a: 384\n  b: 512\n  why: published 256M and 500M use 512" in out
    assert "model.name\n  a: not set; the default holds\n  b: x\n" in out
    assert "depth" not in out


def test_diff_of_equal_recipes_says_so(run, shipped):
    assert "no difference" in run("recipes", "diff", "base", "base")[1]


@pytest.mark.parametrize("option", ["--image", "--video"])
def test_a_missing_medium_is_told_before_the_checkpoint_is_read(run, option):
    status, _, err = run("generate", "nowhere", option, "gone.png")
    assert (status, err) == (2, "error: gone.png: no such file\n")


def test_a_wrong_checkpoint_folder_is_named(run, tmp_path):
    status, _, err = run("generate", str(tmp_path / "nowhere"), "--prompt", "Hello?")
    assert status == 2
    assert err.startswith("error: ")
    assert "nowhere" in err


def test_an_unknown_device_is_refused():
    assert choose_device("cpu") == "cpu"
    with pytest.raises(ConfigError, match=r"--device tpu: not on this machine; expected .*cpu"):
        choose_device("tpu")


def test_auto_leaves_the_number_of_the_gpu_to_the_launcher(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert choose_device("auto") == "cuda"
    assert choose_device("cuda:1") == "cuda:1"
    with pytest.raises(ConfigError, match=r"--device cuda:2: not on this machine; expected cuda"):
        choose_device("cuda:2")


def test_auto_does_not_take_a_device_that_nobody_compared(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert (choose_device("auto"), choose_device("mps")) == ("cpu", "mps")


def test_demo_data_prints_what_it_wrote(run, tmp_path, monkeypatch):
    from smolvlm2.data import demo_digits

    def write(out: Path, *, seed: int) -> object:
        summary = dict.fromkeys(demo_digits.DemoSummary.__dataclass_fields__)
        return demo_digits.DemoSummary(
            **summary | {"train_rows": {"pages": 7}, "benchmarks": {"which_digit": seed}}
        )

    monkeypatch.setattr(demo_digits, "write_demo_data", write)
    status, out, _ = run("demo-data", str(tmp_path), "--seed", "3")
    assert status == 0
    assert out.splitlines() == [
        f"     7 samples    {tmp_path}/raw/pages",
        f"     3 questions  {tmp_path}/held_out/which_digit.jsonl",
    ]


def test_diff_without_names_compares_the_shipped_recipes_with_the_published(run):
    status, out, _ = run("recipes", "diff")
    assert status == 0
    assert out.count("\nb: ") == 5
    assert "model.vision_encoder.image_size\n  a: 384\n  b: 512\n  why: " in out
    assert "training.unfreeze_vision_after_steps\n  a: 10000\n" in out


def test_inspect_writes_a_page_or_prints(run, recipe_file, tmp_path):
    page = tmp_path / "page.html"
    status, out, _ = run("inspect", recipe_file, "--count", "2", "--output", str(page))
    assert (status, page.is_file()) == (0, True)
    assert f"{page}: " in out
    status, out, _ = run("inspect", "text_digits", "--recipe", recipe_file, "--text", "--count=1")
    assert status == 0
    assert out.startswith("=== text_digits/")
    status, _, err = run("inspect", recipe_file, "--sample", "nobody")
    assert (status, err.startswith("error: sample 'nobody' is in none of ")) == (2, True)


def test_data_stats_prints_tables_or_json(run, recipe_file):
    status, out, _ = run("data", "stats", recipe_file)
    assert (status, "m4_digits" in out) == (0, True)
    status, out, _ = run("data", "stats", recipe_file, "--json")
    assert (status, out[0]) == (0, "{")


def test_data_contamination_needs_benchmarks(run, looked_at, tmp_path):
    arguments = ("data", "contamination", "text_digits", "--data", str(looked_at / "data"))
    assert run(*arguments)[0] == 2
    status, _, err = run(*arguments, "--benchmarks", str(tmp_path / "nowhere"))
    assert (status, "no such folder of benchmark images" in err) == (2, True)
