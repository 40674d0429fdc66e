"""Files on their way, from a hub that fails in every way, through the real client."""

import errno
import os
import random
import signal
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from smolvlm2.data.download.plan import make_plan
from smolvlm2.data.download.record import Record
from smolvlm2.data.download.run import run_plan
from smolvlm2.data.download.selection import select

CHOICE = select(sources=["vista_400k"])
TAR = "long_video_caption_1.tar"


def noise(seed: int, size: int = 50_000) -> bytes:
    return random.Random(seed).randbytes(size)


@pytest.mark.parametrize("kind", ["reset", "close"])
def test_a_connection_that_breaks_in_a_file_costs_nothing_but_time(
    hub, fetch, vista, kind, no_waiting
):
    vista.publish()
    hub.fault(TAR, kind)
    assert fetch() == {}
    assert vista.on_disk() == vista.wanted


def test_a_closed_connection_goes_on_in_the_middle(hub, fetch, vista, no_waiting):
    big = noise(4, 22_000_000)  # the client hands on blocks of ten megabytes
    hub.add(vista.hub_id, {"long_video_caption/long_video_caption_1.tar": big})
    hub.fault(TAR, "close")
    assert fetch() == {}
    assert vista.on_disk() == {"long_video_caption/long_video_caption_1.tar": big}
    assert any(h.get("range") for m, path, h in hub.requests if m == "GET" and path.endswith(TAR))


@pytest.mark.parametrize("method", ["HEAD", "GET"])
@pytest.mark.parametrize("status", ["429", "503"])
def test_a_busy_hub_is_asked_again(hub, fetch, vista, status, method, no_waiting):
    vista.publish()
    path = TAR if method == "GET" else "long_video_caption.json"
    hub.fault(path, status, method=method, times=2, headers={"Retry-After": "7"})
    assert fetch() == {}
    assert vista.on_disk() == vista.wanted
    if method == "HEAD" or status == "429":
        assert 8.0 in no_waiting  # the client's own: what the hub asks, and a second


@pytest.mark.parametrize("address", ["revision/main", "tree"])
@pytest.mark.parametrize("status", ["429", "503"])
def test_a_busy_listing_is_asked_again(hub, fetch, vista, status, address, no_waiting):
    commit = vista.publish()
    hub.fault(address if "/" in address else f"tree/{commit}", status, times=2)
    assert fetch() == {}
    assert vista.on_disk() == vista.wanted


def test_a_hub_that_stays_busy_is_given_up_and_the_rest_arrives(hub, fetch, vista, no_waiting):
    vista.publish()
    hub.fault(TAR, "503", times=1000)
    (lines,) = fetch().values()
    assert lines == [f"long_video_caption/{TAR}: the hub answers 503"]
    assert len(vista.on_disk()) == len(vista.wanted) - 1
    hub.faults.clear()
    assert fetch() == {}
    assert vista.on_disk() == vista.wanted


@pytest.mark.parametrize("status", ["401", "403", "520"])
def test_a_signed_link_that_ran_out_closes_nothing(hub, fetch, vista, status, no_waiting):
    vista.publish()
    hub.fault(TAR, status)  # a GET goes to the other host, which never sees a token
    assert fetch() == {}
    assert vista.on_disk() == vista.wanted


@pytest.mark.parametrize("kind", ["corrupt", "short", "long"])
def test_what_arrives_wrong_is_fetched_once_more(hub, fetch, vista, kind, no_waiting):
    vista.publish()
    hub.fault(TAR, kind)
    assert fetch() == {}
    assert vista.on_disk() == vista.wanted


@pytest.mark.parametrize("kind", ["corrupt", "short", "long"])
@pytest.mark.parametrize("name", [TAR, "long_video_caption.json"])
def test_what_stays_wrong_is_named_and_never_put_in_place(
    hub, fetch, vista, kind, name, no_waiting
):
    vista.publish()
    hub.fault(name, kind, times=1000)
    (lines,) = fetch().values()
    assert len(lines) == 1
    assert f"long_video_caption/{name}" in lines[0]
    assert ("the hub lists" if kind == "corrupt" else "size") in lines[0]
    assert set(vista.on_disk()) == set(vista.wanted) - {f"long_video_caption/{name}"}
    vista.assert_nothing_half()
    assert not Record.load(vista.raw).complete
    hub.faults.clear()
    assert fetch() == {}
    assert vista.on_disk() == vista.wanted


def test_a_file_that_disappears_is_named_and_the_rest_arrives(hub, fetch, vista):
    vista.publish()
    hub.fault(TAR, "gone", method="HEAD", times=1000)
    hub.fault(TAR, "gone", times=1000)
    (lines,) = fetch().values()
    assert "the file is not on the hub any more; --revision vista_400k=main moves on" in lines[0]
    assert set(vista.on_disk()) == set(vista.wanted) - {f"long_video_caption/{TAR}"}
    hub.faults.clear()
    assert fetch() == {}


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 24 MB."""
    folder = tmp_path / "small"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("mounting a small file system needs root")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def fill(path: Path) -> None:
    """Take what is left on a disk, but for room for a small file."""
    with path.open("wb", buffering=0) as file:
        while True:
            try:
                file.write(bytes(4096))
            except OSError as error:
                assert error.errno == errno.ENOSPC  # noqa: PT017 - the loop ends here
                break
    os.truncate(path, path.stat().st_size - 500_000)


def test_a_disk_that_fills_up_is_reported_and_a_rerun_completes(
    make_vista, hub, settings, small_disk, monkeypatch
):
    monkeypatch.setattr("smolvlm2.data.download.disk.MARGIN", 0)
    vista = make_vista(small_disk)
    vista.files[f"long_video_caption/{TAR}"] = noise(7, 12_000_000)
    vista.publish()
    hub.fault(TAR, "", action=lambda: fill(small_disk / "filler"))
    one = replace(settings, workers=1)
    (lines,) = run_plan(make_plan(CHOICE, small_disk, one), one, threading.Event()).values()
    assert "the disk is full" in lines[0]
    assert "run the same command again" in lines[0]
    assert not hub.count("HEAD", "long_video_caption_2.tar")  # it would fit, and is not tried
    vista.assert_nothing_half()
    assert f"long_video_caption/{TAR}" not in vista.on_disk()
    (small_disk / "filler").unlink()
    assert run_plan(make_plan(CHOICE, small_disk, one), one, threading.Event()) == {}
    assert vista.on_disk() == vista.wanted


def test_a_stop_reaches_a_file_on_its_way(hub, fetch, vista, settings, tmp_path):
    vista.files = {f"long_video_caption/{TAR}": noise(7, 22_000_000)}
    vista.publish()
    stop = threading.Event()
    hub.fault(TAR, "", action=stop.set)
    (lines,) = run_plan(make_plan(CHOICE, tmp_path, settings), settings, stop).values()
    assert lines == [f"long_video_caption/{TAR}: stopped"]
    assert vista.on_disk() == {}
    assert fetch() == {}


def test_ctrl_c_ends_at_once_and_a_rerun_completes(hub, tmp_path, vista, fetch):
    last = "long_video_caption/long_video_caption_3.tar"
    vista.files[last] = noise(8, 22_000_000)
    vista.publish()
    process: list[subprocess.Popen[str]] = []
    started, ended = threading.Event(), threading.Event()

    def interrupt() -> None:
        started.wait(60)
        process[0].send_signal(signal.SIGINT)
        ended.wait(60)  # the connection stays open and silent

    hub.fault(last, "", action=interrupt)
    module = [sys.executable, "-m", "smolvlm2.data.download_datasets", "--source", "vista_400k"]
    process.append(
        subprocess.Popen(
            [*module, "--data", str(tmp_path), "--token", "hf_none", "--workers", "1"],
            env={**os.environ, "HF_ENDPOINT": hub.endpoint},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            # Ignored signals are inherited, and a shell's background job ignores this one.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
    )
    started.set()
    try:
        _, errors = process[0].communicate(timeout=60)
    finally:
        ended.set()
    assert process[0].returncode == 130
    assert "The same command goes on with the rest" in errors
    vista.assert_nothing_half()
    assert set(vista.on_disk()) == set(vista.wanted) - {last}
    assert fetch() == {}
    assert vista.on_disk() == vista.wanted
