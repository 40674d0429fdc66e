"""The script that starts a stage on one machine, under stand-ins for its programs."""

import os
import shutil
import signal
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts" / "launch_stage.sh"
pytestmark = pytest.mark.skipif(shutil.which("bash") is None, reason="the script needs bash")


@pytest.fixture
def launch(tmp_path):
    """Run the script on a machine of so many cores: ``launch(cores, gpu, *arguments)``."""

    def run(cores, gpu, *arguments):
        if not gpu and shutil.which("nvidia-smi", path="/usr/bin:/bin"):
            pytest.skip("this machine has GPUs")
        programs = {"accelerate": 'echo "$*" >> log', "nproc": f"echo {cores}"}
        if gpu:
            programs["nvidia-smi"] = "true"
        folder = tmp_path / f"{cores}-{gpu}"
        folder.mkdir()
        for name, text in programs.items():
            (folder / name).write_text(f"#!/bin/bash\n{text}\n")
            (folder / name).chmod(0o755)
        subprocess.run(
            ["bash", str(SCRIPT), "256m", "8", "vision", *arguments],
            cwd=tmp_path,
            env={"PATH": f"{folder}:/usr/bin:/bin", "HOME": os.environ.get("HOME", "/")},
            check=True,
        )
        line = (tmp_path / "log").read_text().splitlines()[-1]
        return line.partition("--output-dir checkpoints/vision_stage_256m")[2].split()

    return run


@pytest.mark.parametrize(
    ("cores", "gpu", "given", "taken"),
    [
        (64, True, ["--resume"], ["--resume", "data.workers=6"]),
        (224, True, [], ["data.workers=12"]),
        (224, True, ["data.workers=3"], ["data.workers=3"]),
        (32, True, [], []),
        (64, False, [], []),
    ],
)
def test_cores_that_nobody_needs_read_samples(launch, cores, gpu, given, taken):
    assert launch(cores, gpu, *given) == taken


def test_ctrl_c_reaches_the_launcher_and_is_waited_for(tmp_path):
    launcher = tmp_path / "accelerate"
    launcher.write_text(
        """#!/usr/bin/env python3
import time
from pathlib import Path
try:
    print("started", flush=True)
    time.sleep(60)
except KeyboardInterrupt:
    time.sleep(0.5)
    Path("saved").touch()
    raise SystemExit(1)
"""
    )
    launcher.chmod(0o755)
    with subprocess.Popen(
        ["bash", str(SCRIPT), "256m", "1", "vision", "--output-dir", "run"],
        cwd=tmp_path,
        env={"PATH": f"{tmp_path}:{os.environ['PATH']}", "HOME": str(tmp_path)},
        stdout=subprocess.PIPE,
        start_new_session=True,
        # What starts these tests in the background lets them ignore Ctrl-C.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    ) as script:
        assert script.stdout is not None
        script.stdout.readline()
        os.killpg(script.pid, signal.SIGINT)  # as a terminal does
        assert script.wait(timeout=30) == 1
        assert (tmp_path / "saved").exists()
