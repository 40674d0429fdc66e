"""The three scripts from the clone's root, as a user runs them."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

REPO = Path(__file__).parents[2]


def run(script, *arguments, status=0, folder=REPO, blocked=()):
    names = "".join(f"sys.modules[{name!r}] = None; " for name in blocked)
    code = (
        f"import sys, runpy; {names}sys.path[0] = {str(REPO / 'mlx')!r}; "
        f"sys.argv = {[script, *map(str, arguments)]!r}; "
        f"runpy.run_path({str(REPO / 'mlx' / script)!r}, run_name='__main__')"
    )
    command = [sys.executable, "-c", code]
    if not blocked:
        command = [sys.executable, str(REPO / "mlx" / script), *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": str(REPO / "src"), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, env=environment, check=False
    )
    assert done.returncode == status, done.stdout + done.stderr
    return done


def test_data_loading_needs_neither_torch_nor_mlx(tmp_path):
    done = run("test_data_loading.py", "--limit", 3, blocked=("torch", "mlx", "mlx.core"))
    assert "3 of 3 rows can be used" in done.stdout
    assert "supervised tokens are the assistant's answers" in done.stdout


def test_data_loading_counts_with_a_models_tokenizer(drawn, checkpoint):
    done = run("test_data_loading.py", "--data", drawn, "--model", checkpoint)
    assert "12 of 12 rows can be used; 12 images, 2 clips" in done.stdout
    assert re.search(r"supervised +\d+ least", done.stdout)


def test_data_loading_lists_every_bad_row_and_exits_1(tmp_path):
    talk = [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}]
    rows = [
        {"id": "good", "messages": talk},
        {"id": "gone", "messages": talk, "images": ["gone.png"]},
        {"id": "cut", "messages": talk, "videos": ["cut.mp4"]},
        {"id": "odd", "messages": talk, "imgaes": []},
        {"id": "mute", "messages": [talk[0], {"role": "assistant", "content": " "}]},
    ]
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "cut.mp4").write_bytes(b"\0\0\0\x18ftypmp42")
    done = run("test_data_loading.py", "--data", tmp_path, status=1)
    assert "1 of 5 rows can be used" in done.stdout
    problems = [line for line in done.stdout.splitlines() if line.startswith("problem: ")]
    assert len(problems) == 4
    assert "gone.png: no such image file" in problems[0]
    assert "problem: cut: " in problems[1]
    assert "unknown key 'imgaes'; did you mean 'images'?" in problems[2]
    assert "no answer says anything" in problems[3]


def test_memory_is_estimated_without_mlx_and_without_weights():
    done = run(
        "lora_finetune.py", "--model-size", "500m", "--estimate-memory", blocked=("mlx", "mlx.core")
    )
    assert re.search(r"peak +\d+\.\d\d GB", done.stdout)
    assert "peak = weights + adapters" in done.stdout


def test_fit_in_prints_the_flags_it_chose():
    arguments = ("--model-size", "256m", "--estimate-memory", "--batch-size", 2, "--fit-in", "2GB")
    done = run("lora_finetune.py", *arguments)
    assert "chosen: --batch-size 2 --accumulate 1 --gradient-checkpointing" in done.stdout


def test_a_quantised_checkpoint_is_estimated_as_it_is_stored(checkpoint, tmp_path):
    folder = tmp_path / "four"
    shutil.copytree(checkpoint, folder)
    config = json.loads((folder / "config.json").read_text())
    config["quantization"] = {"group_size": 64, "bits": 4}
    (folder / "config.json").write_text(json.dumps(config))
    arguments = ("--model", folder, "--estimate-memory", "--fit-in", "1GB")
    done = run("lora_finetune.py", *arguments)
    assert "4-bit text decoder" in done.stdout
    # It may not be quantised again: the flag would be refused.
    assert "chosen: --batch-size 1 --accumulate 1\n" in done.stdout


@pytest.mark.parametrize("script", ["test_inference.py", "lora_finetune.py"])
def test_without_a_model_the_scripts_say_what_they_would_fetch(script):
    done = run(script, status=2)
    assert done.stderr.count("\n") == 1
    assert "--model-size 256m fetches HuggingFaceTB/SmolVLM2-256M-Video-Instruct" in done.stderr
    assert f"python mlx/{script} --model FOLDER" in done.stderr


@pytest.mark.mlx
def test_a_question_about_an_image_goes_to_the_smallest_published_model(drawn):
    asked = ("--image", drawn / "images/0000_0.png", "--prompt", "Describe this image")
    done = run("test_inference.py", *asked, status=2)  # offline: the hub cannot be asked
    said, failed = done.stderr.splitlines()
    assert said.startswith("no model named: taking HuggingFaceTB/SmolVLM2-256M-Video-Instruct from")
    assert failed.startswith("error: HuggingFaceTB/SmolVLM2-256M-Video-Instruct: no such folder")


def test_training_data_that_are_not_there_are_told_without_mlx():
    arguments = ("--model-size", "256m", "--data", "my_training_data", "--iters", 500)
    done = run("lora_finetune.py", *arguments, status=2, blocked=("mlx", "mlx.core"))
    assert done.stderr == (
        "error: my_training_data: no such file or folder; check the path after --data\n"
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--model", "none/here", "--image", "gone.png"), "gone.png: no such file; check the path"),
        (("--model", "nowhere"), "nowhere: no such folder, and not a hub id"),
        (("--model", "x", "--top-p", 0), "--top-p 0.0: expected"),
    ],
)
@pytest.mark.mlx
def test_inference_errors_are_one_line(arguments, message):
    done = run("test_inference.py", *arguments, status=2)
    assert message in done.stderr
    assert [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert "Traceback" not in done.stderr


def test_missing_mlx_is_one_line_from_the_script(checkpoint):
    done = run("test_inference.py", "--model", checkpoint, status=2, blocked=("mlx", "mlx.core"))
    assert re.search(r"error: mlx cannot be imported .*run: pip install", done.stderr)


@pytest.mark.mlx
def test_a_corrupt_clip_is_one_line_from_the_script(checkpoint, tmp_path):
    (tmp_path / "cut.mp4").write_bytes(b"\0\0\0\x18ftypmp42")
    arguments = ("--model", checkpoint, "--video", tmp_path / "cut.mp4")
    done = run("test_inference.py", *arguments, status=2)
    assert "cut.mp4" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr


@pytest.mark.mlx
@pytest.mark.slow
def test_the_scripts_run_end_to_end_from_the_clones_root(checkpoint, drawn, tmp_path):
    done = run(
        "lora_finetune.py",
        *("--model", checkpoint, "--data", drawn, "--iters", 20),
        *("--learning-rate", 0.01, "--output", tmp_path / "run", "--fuse", tmp_path / "fused"),
    )
    assert re.search(r"memory of this step: estimated 0\.\d+ GB, measured 0\.\d+ GB", done.stdout)
    losses = [float(found) for found in re.findall(r"loss (\d+\.\d+)", done.stdout)]
    assert losses[-1] < 0.7 * losses[0]
    picture, clip = drawn / "images/0000_0.png", drawn / "clips/0005.mp4"
    shared = ("--max-tokens", 8)
    adapted = ("--model", checkpoint, "--adapters", tmp_path / "run")
    with_adapters = run("test_inference.py", *adapted, *shared, "--image", picture)
    fused = run("test_inference.py", "--model", tmp_path / "fused", *shared, "--image", picture)
    assert with_adapters.stdout == fused.stdout
    run("test_inference.py", "--model", tmp_path / "fused", *shared, "--video", clip)
    run("test_inference.py", "--model", checkpoint, *shared, "--quantize", 4, folder=tmp_path)
    blocked = run("test_inference.py", *adapted, *shared, "--image", picture, blocked=("torch",))
    assert blocked.stdout == fused.stdout


@pytest.mark.mlx
def test_a_run_does_not_go_on_from_other_weights_of_the_same_name(checkpoint, drawn, tmp_path):
    base = tmp_path / "base"
    shutil.copytree(checkpoint, base)
    arguments = ("--model", base, "--data", drawn, "--output", tmp_path / "run")
    run("lora_finetune.py", *arguments, "--iters", 1)
    # A training run's folder gets new weights under the same name; here, one number differs.
    path = base / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.write_bytes(data)
    done = run("lora_finetune.py", *arguments, "--iters", 2, status=2)
    assert re.search(r"holds a run with other settings: weights was '\w{16}' and is", done.stderr)
