"""Results kept beside the data go when they are forgotten, and never from under a reader."""

import logging
import os
import subprocess
import sys
import time

import numpy as np
import pytest

from smolvlm2.data.kept_results import KEPT, KEPT_DAYS, hold, prune, put_in_place
from smolvlm2.data.shards import unfinished_name

OLD = (KEPT_DAYS + 1) * 86400
HOLDER = """
import sys
from pathlib import Path
from smolvlm2.data.kept_results import hold
print(hold(Path(sys.argv[1])), flush=True)
sys.stdin.read()
"""


@pytest.fixture
def make_result(tmp_path):
    """Write a result of a thousand zeros: ``make_result("lengths-a", age=seconds)``."""

    def make(name, *, age=0.0):
        folder = tmp_path / name
        (folder / "inside").mkdir(parents=True)
        np.save(folder / "inside" / "numbers.npy", np.zeros(1000))
        (folder / "facts.json").write_text("{}")
        then = time.time() - age
        os.utime(folder / "facts.json", (then, then))
        return folder

    return make


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_what_was_used_last_stays_and_the_rest_goes_once_it_is_old(make_result, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    for number in range(4):
        make_result(f"lengths-{number}", age=OLD + number)
    recent = make_result("lengths-recent", age=OLD / 2)
    make_result("other-0", age=OLD)
    freed = prune(tmp_path, "lengths-*", file="facts.json", keep=3)
    assert names(tmp_path) == ["lengths-0", "lengths-1", recent.name, "other-0"]
    assert freed > 2 * 8000
    assert "removed 2 of 5 results lengths-* that were not used for 30 days" in caplog.text
    # Recent ones stay, however many there are.
    for number in range(KEPT + 3):
        make_result(f"new-{number}", age=OLD / 2)
    assert prune(tmp_path, "new-*", file="facts.json") == 0


def test_use_makes_a_result_young(make_result, tmp_path):
    one, other = make_result("lengths-a", age=OLD + 9), make_result("lengths-b", age=OLD)
    assert hold(one / "facts.json")
    prune(tmp_path, "lengths-*", file="facts.json", keep=0)
    assert one.is_dir()
    assert not other.exists()
    assert not hold(other / "facts.json")


def test_what_another_process_holds_stays_until_it_ends(make_result, tmp_path):
    folder = make_result("lengths-a")
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(folder / "facts.json")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        assert process.stdout.readline() == "True\n"
        then = time.time() - OLD  # as on a clock that runs ahead
        os.utime(folder / "facts.json", (then, then))
        assert prune(tmp_path, "lengths-*", file="facts.json", keep=0) == 0
        assert folder.is_dir()
        process.stdin.close()
    assert prune(tmp_path, "lengths-*", file="facts.json", keep=0) > 0
    assert names(tmp_path) == []


def test_a_mapped_result_can_be_read_on_when_it_goes(make_result, tmp_path):
    folder = make_result("lengths-a", age=OLD)
    mapped = np.load(folder / "inside" / "numbers.npy", mmap_mode="r")
    prune(tmp_path, "lengths-*", file="facts.json", keep=0)
    assert not folder.exists()
    assert mapped.sum() == 0


def test_a_result_made_again_while_its_lock_was_waited_for_is_the_one_that_is_held(
    make_result, tmp_path, monkeypatch
):
    folder = make_result("lengths-a")
    opened = os.open

    def open_then_replace(path, flags):
        handle = opened(path, flags)
        monkeypatch.undo()
        folder.rename(tmp_path / "aside")
        make_result("lengths-a", age=OLD)
        return handle

    monkeypatch.setattr(os, "open", open_then_replace)
    assert hold(folder / "facts.json")
    os.utime(folder / "facts.json", (0, 0))
    assert prune(tmp_path, "lengths-*", file="facts.json", keep=0) == 0


def test_unfinished_results_of_processes_that_died_go(make_result, tmp_path):
    mine = make_result(unfinished_name("lengths-a"))
    done = subprocess.run(
        [sys.executable, "-c", "import os; print(os.getpid())"],
        capture_output=True,
        text=True,
        check=True,
    )
    theirs = make_result(mine.name.replace(f"-{os.getpid()}.", f"-{int(done.stdout)}."))
    prune(tmp_path, "lengths-*", file="facts.json")
    assert mine.is_dir()
    assert not theirs.exists()


def test_results_may_be_files(tmp_path):
    for number in range(3):
        path = tmp_path / f"{number}.json"
        path.write_text("{}")
        os.utime(path, (time.time() - OLD - number,) * 2)
    assert hold(tmp_path / "2.json")
    prune(tmp_path, "*", file=None, keep=1)
    assert names(tmp_path) == ["2.json"]


def test_of_two_processes_with_one_result_both_go_on(make_result):
    first, second = make_result("a.1.partial"), make_result("a.2.partial")
    put_in_place(first, first.with_name("a"))
    put_in_place(second, second.with_name("a"))
    assert (first.with_name("a") / "facts.json").is_file()
    with pytest.raises(FileNotFoundError):
        put_in_place(first, first.with_name("b"))
