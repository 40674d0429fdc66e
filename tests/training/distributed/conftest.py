"""Real ranks: processes that meet over gloo on the loopback interface."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

REPO = Path(__file__).parents[3]


def find_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


@dataclass
class Rank:
    """One process of a launch that has ended."""

    code: int
    output: str


class Ranks:
    """Processes of one launch; a context that leaves none behind."""

    def __init__(self, command: Sequence[str | Path], count: int, **environment: str) -> None:
        port = find_port()
        self.processes = [
            subprocess.Popen(
                [sys.executable, *map(str, command)],
                cwd=REPO,
                env=clean_environment()
                | {
                    "RANK": str(rank),
                    "LOCAL_RANK": str(rank),
                    "WORLD_SIZE": str(count),
                    "LOCAL_WORLD_SIZE": str(count),
                    "MASTER_ADDR": "127.0.0.1",
                    "MASTER_PORT": str(port),
                }
                | environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
            for rank in range(count)
        ]

    def wait(self, seconds: float) -> list[Rank]:
        """Wait for all; a hang is a failure with what was said so far."""
        end = time.monotonic() + seconds
        done = []
        for number, process in enumerate(self.processes):
            try:
                output, _ = process.communicate(timeout=max(0.1, end - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                output, _ = process.communicate()
                pytest.fail(f"rank {number} hangs after {seconds} s:\n{output}")
            done.append(Rank(process.returncode, output))
        return done

    def __enter__(self) -> "Ranks":
        return self

    def __exit__(self, *exception: object) -> None:
        for process in self.processes:
            if process.poll() is None:
                process.kill()
            process.communicate()


def clean_environment() -> dict[str, str]:
    """This process's environment without a launcher's, for one thread a rank."""
    prefixes = ("ACCELERATE_", "FSDP_", "SLURM_", "TORCHELASTIC_", "DATA_DIR")
    kept = {key: value for key, value in os.environ.items() if not key.startswith(prefixes)}
    # `src` for smolvlm2, the root for `python -m src.training.train_vision`.
    return kept | {"OMP_NUM_THREADS": "1", "PYTHONPATH": f"{REPO / 'src'}{os.pathsep}{REPO}"}


@pytest.fixture
def start_ranks():
    """Start ranks of a command: ``with start_ranks(command, 2) as ranks: ranks.wait(60)``."""
    return Ranks


@pytest.fixture
def run_ranks():
    """Run ranks of a command to their end: ``run_ranks(command, 2, seconds=60)``."""

    def run(command, count, *, seconds, **environment):
        with Ranks(command, count, **environment) as ranks:
            return ranks.wait(seconds)

    return run


@pytest.fixture
def train_command(recipe_file):
    """The command that trains the world's recipe in a folder, on the CPU."""

    def command(output, *overrides, options=()):
        recipe = recipe_file(*overrides)
        module = ["-m", "src.training.train_vision", "--device", "cpu", "--config", recipe]
        return [*module, "--output-dir", output, *options]

    return command


@pytest.fixture
def free_port():
    """Find a port that nobody listens on: ``free_port()``."""
    return find_port


@pytest.fixture
def rank_environment() -> dict[str, str]:
    """The environment of a process that a launcher starts."""
    return clean_environment()
