"""Workers that die, hang or cannot start; real processes, real files, a real pipe that blocks."""

import json
import os
import shutil
import signal
import threading
import time
from dataclasses import replace
from itertools import islice
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest

from smolvlm2.data.manifest import Manifest
from smolvlm2.data.media import MediaStore
from smolvlm2.errors import DataError
from smolvlm2.loading import workers
from smolvlm2.loading.loader import Loader
from smolvlm2.loading.reader import Skip
from smolvlm2.loading.workers import WorkerPool
from smolvlm2.plan.plan import Position

STEPS = 4
PATIENCE_S = 5.0
"""More than the slowest good sample takes on a busy machine."""


def take(data, reader, count=STEPS, **options):
    with Loader(data.plan, reader, Position(), **{"workers": 0} | options) as loader:
        return [
            (step.skips, [pack.copy() for pack in step.packs]) for step in islice(loader, count)
        ]


def assert_same_packs(found, expected):
    for (_, mine), (_, theirs) in zip(found, expected, strict=True):
        for a, b in zip(mine, theirs, strict=True):
            assert a.sample_ids == b.sample_ids
            for name, value in vars(b).items():
                np.testing.assert_array_equal(getattr(a, name), value, err_msg=name)


def point_to(manifest, row, place, path):
    """Make a medium of a prepared sample lie in a file of its own; returns the file."""
    file = manifest.folder / "manifest.arrow"
    table = pa.ipc.open_file(str(file)).read_all()
    media = table["media"].to_pylist()
    entries = json.loads(media[row])
    entries[place] = {"kind": entries[place]["kind"], "path": path}
    media[row] = json.dumps(entries)
    table = table.set_column(2, table.schema.field(2), pa.array(media, table.schema.field(2).type))
    with pa.OSFile(str(file), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    return manifest.data_root / path


@pytest.fixture
def trap(make_reader, world, tmp_path):
    """A copy of the world in which the first sample with images is read from a pipe: it blocks.

    Gives data, reader, the pipe and the sample's occurrence.
    """
    shutil.copytree(world / "data", tmp_path / "data")
    data, reader = make_reader(f"data.root={tmp_path / 'data'}")
    pack = data.plan.packs_of_window(0)[0]
    planned = next(plan for plan in reader.planned(pack) if plan.modality in (1, 2))
    manifest = reader.manifests[planned.source]
    pipe = point_to(manifest, planned.row, 0, "raw/pipe")
    os.mkfifo(pipe)
    reopened = [Manifest.open(each.folder, each.tokenizer_key) for each in reader.manifests]
    occurrence = (manifest.sample_id(planned.row), planned.epoch)
    return data, replace(reader, manifests=reopened), pipe, occurrence


def without(reader, occurrence):
    known = Skip(sample_id=occurrence[0], reason="corrupt_media", detail="", epoch=occurrence[1])
    return replace(reader, skipped_before={occurrence: known})


def only_first(reader, occurrence):
    """Later turns of the trapped sample are left alone: one wait is enough."""
    name, epoch = occurrence
    later = [Skip(sample_id=name, reason="corrupt_media", detail="", epoch=e) for e in range(9)]
    return replace(
        reader, skipped_before={skip.occurrence: skip for skip in later if skip.epoch != epoch}
    )


@pytest.mark.parametrize("workers", [1, 2])
def test_a_sample_that_hangs_is_skipped_and_all_others_arrive(trap, workers):
    data, reader, _, occurrence = trap
    everywhere = only_first(reader, occurrence)
    both = everywhere.skipped_before | without(reader, occurrence).skipped_before
    expected = take(data, replace(reader, skipped_before=both))
    found = take(data, everywhere, workers=workers, timeout_s=PATIENCE_S)
    assert_same_packs(found, expected)
    (skip,) = [skip for skips, _ in found for skip in skips if skip.occurrence == occurrence]
    assert skip.reason == "corrupt_media"
    assert skip.detail.endswith("was killed after 5 s (data.sample_timeout_s)")


def test_a_sample_keeps_its_time_where_all_processes_were_stopped(trap, world, monkeypatch):
    data, reader, pipe, occurrence = trap
    source, wait = occurrence[0].split("/")[0], workers.wait
    reached, stopped = threading.Event(), threading.Event()

    def stop_once(objects, timeout):
        """As Ctrl-Z at the sample and `fg` after 1000 s: no time passes for anybody here."""
        if reached.is_set() and not stopped.is_set():
            for slot in range(loader.pool._ring.slots):
                loader.pool._ring.buffers(slot).state[1] -= 1000 * 10**9
            stopped.set()
            return []
        return wait(objects, 0.05)

    clock = SimpleNamespace(monotonic=lambda: time.monotonic() + 1000 * stopped.is_set())
    monkeypatch.setattr(workers, "wait", stop_once)
    monkeypatch.setattr(workers, "time", clock)
    whole = Manifest.open(world / "data" / "prepared" / source)
    image = MediaStore(whole.data_root).read(whole.row(whole.find(occurrence[0])).media[0])
    readable = only_first(reader, occurrence)
    with Loader(data.plan, readable, Position(), workers=1, timeout_s=100.0) as loader:
        steps = iter(loader)
        with pipe.open("wb") as writer:  # opens as soon as the worker is at the sample
            reached.set()
            assert stopped.wait(60)
            writer.write(image)
        skips = next(steps).skips
    assert occurrence not in [skip.occurrence for skip in skips]


def test_a_worker_that_dies_on_a_sample_costs_that_sample(trap):
    data, reader, pipe, occurrence = trap
    with Loader(data.plan, only_first(reader, occurrence), Position(), workers=1) as loader:
        steps = iter(loader)
        # Opens as soon as the worker is at the sample.
        writer = os.open(pipe, os.O_WRONLY)
        os.kill(loader.pool.pids[0], signal.SIGSEGV)
        first = next(steps)
        os.close(writer)
        # Later turns of the sample may come in the same step.
        (skip,) = [skip for skip in first.skips if skip.occurrence == occurrence]
    assert skip.reason == "corrupt_media"
    assert skip.detail == "the loader process that read it was ended by SIGSEGV"


def test_a_worker_that_dies_between_samples_costs_nothing(make_reader, caplog):
    data, reader = make_reader()
    expected = take(data, reader, count=9)
    with Loader(data.plan, reader, Position(), workers=1) as loader:
        found = []
        for number, step in enumerate(islice(loader, 9)):
            found.append((step.skips, [pack.copy() for pack in step.packs]))
            if number == 3:
                wait_until_idle(loader.pool)
                os.kill(loader.pool.pids[0], signal.SIGKILL)
    assert_same_packs(found, expected)
    assert not any(skips for skips, _ in found)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1])
def test_what_a_batch_system_sends_to_all_processes_leaves_workers_alone(make_reader, number):
    data, reader = make_reader()
    with Loader(data.plan, reader, Position(), workers=1) as loader:
        steps = iter(loader)
        next(steps)
        before = loader.pool.pids
        os.kill(before[0], number)
        # More steps than the ring holds: the worker has read since.
        assert not any(step.skips for step in islice(steps, 6))
        assert loader.pool.pids == before


def wait_until_idle(pool):
    limit = time.monotonic() + 60
    while pool._waiting or any(worker.task for worker in pool._workers):
        assert time.monotonic() < limit


def test_workers_that_cannot_start_are_an_error(make_reader, world, tmp_path, capfd):
    shutil.copytree(world / "data" / "prepared", tmp_path / "data" / "prepared")
    data, reader = make_reader(f"data.root={tmp_path / 'data'}")
    shutil.rmtree(tmp_path / "data")
    with (
        Loader(data.plan, reader, Position(), workers=1) as loader,
        pytest.raises(DataError, match=r"3 loader processes in a row ended with exit code 1, .*=0"),
    ):
        next(iter(loader))
    assert "so this is no prepared source" in capfd.readouterr().err


def test_an_error_of_our_own_keeps_its_trace(make_reader):
    data, reader = make_reader()
    wrong = replace(reader, image_token_id=-1)
    with pytest.raises(RuntimeError, match=r"a defect of smolvlm2:\n(.*\n)*.* in assemble\n"):
        take(data, wrong, workers=1)


def test_a_closed_pool_has_no_processes_and_no_answers(make_reader):
    data, reader = make_reader()
    loader = Loader(data.plan, reader, Position(), workers=2)
    processes = [worker.process for worker in loader.pool._workers]
    steps = iter(loader)
    for _ in range(2):
        loader.close()
    assert [process.is_alive() for process in processes] == [False, False]
    with pytest.raises(DataError, match="the loader was closed"):
        next(steps)
    assert isinstance(loader.pool, WorkerPool)


def test_a_close_that_is_interrupted_leaves_no_process(make_reader, monkeypatch):
    data, reader = make_reader()
    loader = Loader(data.plan, reader, Position(), workers=2)
    processes = [worker.process for worker in loader.pool._workers]

    def interrupt():
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(loader.pool._thread, "join", interrupt)
        with pytest.raises(KeyboardInterrupt):
            loader.close()
    for process in processes:
        process.join(PATIENCE_S)
    assert [process.is_alive() for process in processes] == [False, False]
    loader.close()


def test_nothing_is_left_in_shared_memory(make_reader):
    folder = Path("/dev/shm")
    before = set(folder.iterdir()) if folder.is_dir() else set()
    data, reader = make_reader()
    with Loader(data.plan, reader, Position(), workers=1) as loader:
        next(iter(loader))
        assert set(folder.glob("smolvlm2*")) <= before


def test_a_released_pack_cannot_be_looked_at_again(make_reader):
    data, reader = make_reader()
    with Loader(data.plan, reader, Position(), workers=1) as loader:
        steps = iter(loader)
        first = next(steps)
        ids = first.packs[0].sample_ids
        for _ in range(2):
            first.release(0)
        with pytest.raises(AttributeError, match="pixel_values"):
            _ = first.packs[0].pixel_values
        assert first.packs[1].pixel_values.size
        next(steps)
        assert not hasattr(first.packs[1], "input_ids")
        assert first.packs[0].sample_ids == ids
