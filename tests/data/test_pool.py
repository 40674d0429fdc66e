"""Tasks in processes."""

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from smolvlm2.data.pool import run_tasks
from smolvlm2.errors import DataError


def doubled(number):
    return 2 * number


def hanging(number):
    print("begun", flush=True)
    threading.Event().wait()


def killed(number):
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize("workers", [0, 2])
def test_results_come_in_the_order_of_the_tasks(workers):
    told = []
    tasks = [(n,) for n in range(5)]
    results = run_tasks(doubled, tasks, workers, "numbers", lambda *said: told.append(said))
    assert results == [0, 2, 4, 6, 8]
    assert told[-1] == ("numbers", 5, 5)


def test_a_worker_that_is_killed_is_explained():
    with pytest.raises(DataError, match=r"inputs: a worker process was killed.*fewer --workers"):
        run_tasks(killed, [(n,) for n in range(3)], 2, "inputs", lambda *_: None)


HANGING = """
from smolvlm2.data.pool import run_tasks
from tests.data.test_pool import hanging
if __name__ == "__main__":
    run_tasks(hanging, [(n,) for n in range(9)], 2, "x", print)
"""


def test_workers_end_with_a_run_that_is_killed(tmp_path):
    (tmp_path / "hanging.py").write_text(HANGING)
    roots = os.pathsep.join([str(Path(__file__).parents[2]), *sys.path])
    run = subprocess.Popen(
        [sys.executable, str(tmp_path / "hanging.py")],
        stdout=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": roots},
    )
    assert run.stdout is not None
    assert run.stdout.readline() == b"begun\n"
    run.kill()
    # The workers hold the same pipe: it ends with the last of them.
    run.communicate(timeout=120)
