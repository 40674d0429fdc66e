"""The specification's scripts, as typed from a clone's root."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

REPO = Path(__file__).parents[1]
SCRIPTS = REPO / "scripts"
BIN = Path(sys.executable).parent
pytestmark = pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")


def call(*command, path="", **environment):
    """Run a script; its exit status, output and errors."""
    return subprocess.run(
        [str(part) for part in command],
        cwd=REPO,
        env={
            **os.environ,
            "PATH": f"{path}:{BIN}:{os.environ['PATH']}",
            "PYTHONPATH": str(REPO / "src"),
            "HF_HUB_OFFLINE": "1",
            **environment,
        },
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture
def clone(tmp_path):
    """A root with the scripts and a launcher that only says how it was called."""
    shutil.copytree(SCRIPTS, tmp_path / "scripts")
    launcher = tmp_path / "bin" / "accelerate"
    launcher.parent.mkdir()
    launcher.write_text('#!/bin/bash\necho "$DATA_DIR: $*"\nexit "${STATUS:-0}"\n')
    launcher.chmod(0o755)
    return tmp_path


LAUNCH = "launch --config_file configs/accelerate_config.yaml --num_processes 8 -m src.training."


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (
            ("run_vision_stage.sh", "256m", "8"),
            "train_vision --model-size 256m --output-dir checkpoints/vision_stage_256m",
        ),
        (
            ("run_video_stage.sh", "500m", "8", "./checkpoints/vision_stage_500m"),
            "train_video --model-size 500m --output-dir checkpoints/video_stage_500m "
            "--vision-checkpoint ./checkpoints/vision_stage_500m",
        ),
    ],
)
def test_a_stage_is_launched_as_the_specification_has_it(clone, arguments, expected):
    script, *rest = arguments
    command = (clone / "scripts" / script, *rest, "--dry-run", "training.max_steps=3")
    done = call(*command, path=str(clone / "bin"), DATA_DIR="")
    assert done.stdout == f"./data: {LAUNCH}{expected} --dry-run training.max_steps=3\n"
    assert done.returncode == 0


def test_the_run_knows_better_than_its_launcher_how_it_ended(clone):
    script = clone / "scripts/run_vision_stage.sh"
    failed = call(script, "256m", "2", path=str(clone / "bin"), STATUS="1")
    assert failed.returncode == 1
    assert "what it says itself stands above" in failed.stderr
    # The launcher's stand-in cannot write the status: it is removed before, so that none is old.
    status = clone / "out/exit_status"
    status.parent.mkdir()
    status.write_text("75\n")
    arguments = ("256m", "2", "--output-dir", str(status.parent))
    assert call(script, *arguments, path=str(clone / "bin"), STATUS="1").returncode == 1
    (clone / "bin/accelerate").write_text(f'#!/bin/bash\necho 75 > "{status}"\nexit 1\n')
    assert call(script, *arguments, path=str(clone / "bin")).returncode == 75


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (("run_vision_stage.sh", "256m"), "SIZE GPUS [flags and key=value]"),
        (("run_vision_stage.sh", "300m", "8"), "error: size '300m', expected 256m or 500m"),
        (("run_vision_stage.sh", "256m", "eight"), "error: GPUs 'eight', expected a number from 1"),
        (("run_vision_stage.sh", "256m", "0"), "error: GPUs '0', expected a number from 1"),
        (("run_video_stage.sh", "256m", "8"), "SIZE GPUS VISION_CHECKPOINT"),
        (("evaluate_model.sh", "checkpoints/x"), "CHECKPOINT BENCHMARKS"),
        (("download_all_datasets.sh",), "error: expected the data folder first"),
        (("setup_environment.sh", "--cloud"), "error: unknown argument '--cloud'"),
    ],
)
def test_a_wrong_call_is_answered_in_words(command, message):
    done = call(SCRIPTS / command[0], *command[1:])
    assert done.returncode == 2
    assert message in done.stderr


@pytest.fixture
def fresh(clone):
    """A root to set up with a Python that makes no environments, and stand-ins for a machine."""
    for name in ("pyproject.toml", "constraints-cpu.txt"):
        shutil.copy(REPO / name, clone)
    as_mac = "import platform, sys; sys.platform = 'darwin'; platform.machine = lambda: 'x86_64'"
    programs = {
        "nvidia-smi": "exit 1",
        "python": f'[ "$1" != -m ] && exec {sys.executable} "$@"',
        "intel-python": f'exec {sys.executable} -c "{as_mac}; exec(sys.argv[1])" "$2"',
    }
    for name, text in programs.items():
        (clone / "bin" / name).write_text(f"#!/bin/bash\n{text}\n")
        (clone / "bin" / name).chmod(0o755)
    return clone


def test_setup_starts_from_any_folder(fresh):
    done = subprocess.run(
        ["bash", "setup_environment.sh"],
        cwd=fresh / "scripts",
        env={**os.environ, "PYTHON": str(fresh / "bin/python")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert "setup: found" in done.stdout
    assert "-m venv' failed" in done.stderr


def test_setup_refuses_a_python_for_intel_macs(fresh):
    (fresh / "bin/uname").write_text("#!/bin/bash\necho Darwin\n")
    (fresh / "bin/uname").chmod(0o755)
    python = fresh / "bin/intel-python"
    script = fresh / "scripts/setup_environment.sh"
    done = call(script, path=str(fresh / "bin"), PYTHON=str(python))
    assert done.returncode == 1
    assert f"PYTHON={python} is not a Python 3.11 or newer for arm64" in done.stderr


@pytest.mark.parametrize(
    ("versions", "noted"), [("2.15.0, 2.13.0", True), ("2.15.0, 2.13.0+cpu, 2.13.0", False)]
)
def test_setup_says_when_torch_would_bring_cuda(fresh, versions, noted):
    programs = {
        fresh / "bin/uname": '[ "$1" = -sm ] && echo Linux x86_64 || echo Linux',
        fresh / ".venv/bin/python": f"""case "$*" in
          *"import torch"*) exit 1 ;;
          *"index versions"*) echo "Available versions: {versions}" ;;
        esac""",
    }
    (fresh / ".venv/bin").mkdir(parents=True, exist_ok=True)
    for path, text in programs.items():
        path.unlink(missing_ok=True)
        path.write_text(f"#!/bin/bash\n{text}\n")
        path.chmod(0o755)
    done = call(fresh / "scripts/setup_environment.sh", path=str(fresh / "bin"))
    assert done.returncode == 0, done.stderr
    assert ("set PIP_EXTRA_INDEX_URL" in done.stdout) == noted
    assert "setup: done" in done.stdout


@pytest.mark.slow
@pytest.mark.skipif(not (BIN / "accelerate").is_file(), reason="needs accelerate")
@pytest.mark.parametrize("processes", ["1", "2"])
def test_both_stages_run_dry_under_accelerate(processes, tmp_path):
    vision = call(SCRIPTS / "run_vision_stage.sh", "256m", processes, "--dry-run")
    assert vision.returncode == 0, vision.stderr
    assert vision.stdout.count("# merged recipe") == 1
    for text in (
        "max_steps: 50000",
        "sharding: full",
        "253,044,288",
        "# cost with full packs, 32 a step",
    ):
        assert text in vision.stdout
    start = tmp_path / "vision"
    start.mkdir()
    assert (
        "no config.json"
        in call(SCRIPTS / "run_video_stage.sh", "256m", processes, start, "--dry-run").stderr
    )


def test_the_preview_is_printed_without_network(tmp_path):
    done = call(SCRIPTS / "download_all_datasets.sh", tmp_path / "data", "vision", "--preview")
    assert done.returncode in (0, 3), done.stderr
    assert "the_cauldron" in done.stdout
    assert not (tmp_path / "data/raw").exists()
