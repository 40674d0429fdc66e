"""The Slurm scripts that train, under a stand-in for srun that treats tasks as Slurm does."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts" / "slurm" / "train_steps.sh"
# Two tasks; the first that fails ends the other, and the highest status is the step's own. A
# signal goes to all processes of the step, as scancel sends it.
SRUN = """
import os, signal, subprocess, sys
command = sys.argv[1:]
with open(os.environ["LOG"] + ".srun", "w") as file:
    file.write(str(os.getpid()))
with open(os.environ["LOG"], "a") as log:
    print("srun", *[each for each in command if each.startswith("--")], file=log)
while command[0].startswith("--"):
    del command[0]
tasks = [
    subprocess.Popen(command, env=os.environ | {"SLURM_PROCID": str(n)}, start_new_session=True)
    for n in range(2)
]
signal.signal(signal.SIGTERM, lambda *_: [os.killpg(task.pid, signal.SIGTERM) for task in tasks])
codes = {}
while len(codes) < len(tasks):
    for number, task in enumerate(tasks):
        code = task.poll()
        if code is None or number in codes:
            continue
        codes[number] = 128 - code if code < 0 else code
        if code:
            for other in tasks:
                if other.poll() is None:
                    os.killpg(other.pid, signal.SIGKILL)
sys.exit(max(codes.values()))
"""
# Rank 0 ends last: it writes the report.
PYTHON = """
import os, signal, sys, time
rank, how = os.environ["SLURM_PROCID"], os.environ["HOW"]
with open(os.environ["LOG"] + rank, "w") as log:
    print(*sys.argv[1:], file=log)
if how == "signal":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    open(os.environ["LOG"] + rank + ".ready", "w").close()
    while True:
        signal.pause()
if rank == "0":
    end = time.monotonic() + 1
    while time.monotonic() < end:
        pass
sys.exit(int(how))
"""


@pytest.fixture
def start(tmp_path):
    """Start the script with stand-ins: ``start("75", "--resume")`` ends as ``how`` says."""
    if shutil.which("bash") is None:
        pytest.skip("bash is not installed")
    programs = {"srun": SRUN, "python": PYTHON}
    (tmp_path / "bin").mkdir()
    for name, text in programs.items():
        program = tmp_path / "bin" / name
        program.write_text(f"#!{sys.executable}\n{text}")
        program.chmod(0o755)
    control = tmp_path / "bin" / "scontrol"
    control.write_text('#!/bin/bash\necho "scontrol $*" >> "$LOG"\necho node1\n')
    control.chmod(0o755)

    def run(how, *arguments, **environment):
        return subprocess.Popen(
            ["bash", str(SCRIPT), "train_vision", *arguments],
            cwd=tmp_path,
            env={
                "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}",
                "LOG": str(tmp_path / "log"),
                "HOW": how,
                "SLURM_JOB_ID": "41",
                "SLURM_JOB_NODELIST": "node[1-2]",
                **environment,
            },
        )

    return run


def test_a_run_out_of_time_is_queued_again_though_its_ranks_end_one_after_the_other(
    start, tmp_path
):
    assert start("75").wait(60) == 75
    assert (tmp_path / "log").read_text().splitlines()[-1] == "scontrol requeue 41"
    assert not list(tmp_path.glob("slurm-*"))


@pytest.mark.parametrize("how", ["0", "2"])
def test_a_run_that_has_finished_or_failed_is_not(start, tmp_path, how):
    # The rank that works on when another has failed is killed.
    assert start(how).wait(60) == (0 if how == "0" else 137)
    assert "requeue" not in (tmp_path / "log").read_text()


def test_a_signal_reaches_the_ranks_and_ends_the_step_when_they_have_saved(start, tmp_path):
    script = start("signal")
    limit = time.monotonic() + 60
    while len(list(tmp_path.glob("log?.ready"))) < 2:
        assert time.monotonic() < limit
    os.kill(int((tmp_path / "log.srun").read_text()), signal.SIGTERM)
    assert script.wait(60) == 0
    assert "requeue" not in (tmp_path / "log").read_text()


@pytest.mark.parametrize(
    ("given", "taken"),
    [
        (["--resume"], "--resume data.workers=10"),
        (["data.workers=3", "--restart"], "data.workers=3 --restart"),
    ],
)
def test_a_rank_has_its_cores_and_reads_with_all_but_two_of_them(start, tmp_path, given, taken):
    start("0", *given, SLURM_CPUS_PER_TASK="12").wait(60)
    assert "--cpus-per-task=12" in (tmp_path / "log").read_text()
    assert (tmp_path / "log0").read_text() == (
        f"-m smolvlm2.training.train_vision --stop-after 3h45m {taken}\n"
    )
