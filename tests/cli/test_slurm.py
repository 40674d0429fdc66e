"""The Slurm script, with programs that only say how they were called."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts" / "slurm" / "prepare.sbatch"


@pytest.fixture
def run(tmp_path):
    """Run the script with stand-ins for sbatch and smolvlm2."""
    if shutil.which("bash") is None:
        pytest.skip("bash is not installed")
    (tmp_path / "bin").mkdir()
    for name, answer in (("sbatch", "4711;cluster"), ("smolvlm2", "")):
        program = tmp_path / "bin" / name
        program.write_text(f'#!/bin/bash\necho "{name} $*" >> "$LOG"\necho "{answer}"\n')
        program.chmod(0o755)

    def call(*arguments, **environment):
        log = tmp_path / "log"
        log.write_text("")
        path = f"{tmp_path / 'bin'}:{os.environ['PATH']}"
        done = subprocess.run(
            ["bash", str(SCRIPT), *arguments],
            cwd=tmp_path,
            env={"PATH": path, "LOG": str(log), **environment},
            capture_output=True,
            text=True,
            check=False,
        )
        return done.returncode, log.read_text().splitlines(), done.stdout

    return call


def test_it_submits_an_array_and_a_job_that_waits_for_it(run):
    status, calls, _ = run("a", "b", "--", "--frames", TASKS="3")
    assert status == 0
    assert calls == [
        f"sbatch --parsable --array=0-2 {SCRIPT} a b -- --frames",
        "sbatch --dependency=afterok:4711 --kill-on-invalid-dep=yes --output=prepare-%j.log "
        f"{SCRIPT} a b -- --frames",
    ]


def test_a_task_maps_its_share(run):
    job = {"SLURM_JOB_ID": "1", "SLURM_CPUS_PER_TASK": "4"}
    array = {"SLURM_ARRAY_TASK_ID": "2", "SLURM_ARRAY_TASK_COUNT": "3"}
    assert run("a", "b", "--", "--frames", **job, **array)[1] == [
        "smolvlm2 prepare a b --workers 4 --frames --task 2/3"
    ]


def test_the_last_job_finishes(run):
    assert run("a", SLURM_JOB_ID="1")[1] == ["smolvlm2 prepare a --workers 16"]


def test_without_a_source_it_explains_itself(run):
    status, calls, out = run()
    assert (status, calls) == (2, [])
    assert "scripts/slurm/prepare.sbatch SOURCE... [-- OPTIONS]" in out
