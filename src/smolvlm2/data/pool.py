"""Tasks in a pool of processes."""

import multiprocessing
import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from typing import Any

import pyarrow as pa

from smolvlm2.errors import DataError

Report = Callable[[str, int, int], None]
"""Called with what is being done, how many are done, and of how many."""


def run_tasks(
    function: Callable[..., Any],
    tasks: Sequence[tuple[Any, ...]],
    workers: int,
    what: str,
    report: Report,
    done: Callable[[int, Any], None] | None = None,
) -> list[Any]:
    """Call a function with each tuple of arguments.

    Args:
        function: Of a module, so that a worker finds it.
        tasks: Arguments of each call.
        workers: Processes; 0 works in this one.
        what: Word for ``report``.
        report: Told of every finished task.
        done: Called in this process with a task's number and result as soon as it is finished.

    Returns:
        Results in the order of the tasks.

    Raises:
        DataError: A worker process was killed.
    """
    results: list[Any] = [None] * len(tasks)

    def finished(number: int, result: Any, count: int) -> None:
        results[number] = result
        if done is not None:
            done(number, result)
        report(what, count, len(tasks))

    if workers == 0 or len(tasks) < 2:
        for number, task in enumerate(tasks):
            finished(number, function(*task), number + 1)
        return results
    # Spawned, not forked: Arrow and FFmpeg keep threads that a forked child would lack.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(workers, len(tasks)), context, _begin_worker) as pool:
        numbers = {pool.submit(function, *task): n for n, task in enumerate(tasks)}
        try:
            for count, future in enumerate(as_completed(numbers), start=1):
                finished(numbers[future], future.result(), count)
        except BrokenProcessPool as error:
            pool.shutdown(wait=False, cancel_futures=True)
            raise DataError(
                f"{what}: a worker process was killed, most likely because memory ran out (see "
                "dmesg) or a decoder crashed; run the same command again with fewer --workers, it "
                "goes on where it stopped"
            ) from error
        except BaseException:
            # What has not begun need not: the error is to be seen now.
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return results


def _begin_worker() -> None:
    """A worker is one core's: its libraries must not start threads for all of them."""
    threading.Thread(target=_exit_with_parent, daemon=True).start()
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    os.environ["RAYON_NUM_THREADS"] = "1"
    pa.set_cpu_count(1)


def _exit_with_parent() -> None:
    """Without this the workers of a run that was killed would stay for ever, and work on."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
