"""Tasks in processes."""

import os
import signal

import pytest

from smolvlm2.data.pool import run_tasks
from smolvlm2.errors import DataError


def doubled(number):
    return 2 * number


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
