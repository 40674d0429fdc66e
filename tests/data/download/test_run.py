"""Downloads from a hub that fails in every way, through the real client."""

import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from smolvlm2.data.download.record import Record
from smolvlm2.data.download.run import describe_plan, make_plan, run_plan
from smolvlm2.data.download.selection import select
from smolvlm2.errors import DataError

VISTA = "TIGER-Lab/VISTA-400K"
CHOICE = select(sources=["vista_400k"])
GATED = "HuggingFaceFV/finevideo"


def noise(seed: int, size: int = 50_000) -> bytes:
    return random.Random(seed).randbytes(size)


FILES = {
    "README.md": b"card",
    ".gitattributes": b"not wanted",
    "long_video_caption/long_video_caption.json": noise(0),
    "long_video_caption/long_video_caption_1.tar": noise(1),
    "long_video_caption/long_video_caption_2.tar": noise(2),
    "event_relationship_qa/event_relationship_qa_1.tar": noise(3),
    "event_relationship_qa/event_relationship_qa.json": b"[]",
    "preview.mp4": b"not wanted",
}
WANTED = {path: data for path, data in FILES.items() if path.endswith((".tar", ".json", ".md"))}
TAR = "long_video_caption_1.tar"


@pytest.fixture
def fetch(tmp_path, settings):
    """Run a download to the end; what is missing, by source."""

    def run(selections=CHOICE, **options):
        plan = make_plan(selections, tmp_path, settings, **options)
        return run_plan(plan, settings, threading.Event())

    return run


@pytest.fixture
def raw(tmp_path):
    return tmp_path / "raw" / "TIGER-Lab__VISTA-400K"


@pytest.fixture
def no_waiting(monkeypatch):
    """Seconds that anybody wanted to wait, without waiting them."""
    waits = []
    monkeypatch.setattr(time, "sleep", waits.append)
    return waits


def on_disk(raw: Path) -> dict[str, bytes]:
    """Everything that another program would see."""
    files = [path for path in raw.rglob("*") if path.is_file()]
    paths = {path.relative_to(raw).as_posix(): path for path in files}
    return {
        name: path.read_bytes()
        for name, path in paths.items()
        if not name.startswith(".") and name != "download.json"
    }


def assert_nothing_half(raw: Path, published: dict[str, bytes] = WANTED) -> None:
    """Whatever lies under a published name is what was published."""
    for name, content in on_disk(raw).items():
        assert published[name] == content, name


def test_the_wanted_files_arrive_and_are_recorded(hub, fetch, raw, tmp_path):
    commit = hub.add(VISTA, FILES)
    assert fetch() == {}
    assert on_disk(raw) == WANTED
    record = json.loads((raw / "download.json").read_text())
    assert record["commits"] == {VISTA: commit}
    assert record["complete"] is True
    tar = "long_video_caption/long_video_caption_1.tar"
    assert record["files"][tar] == {
        "size": 50_000,
        "digest": f"sha256:{hashlib.sha256(FILES[tar]).hexdigest()}",
    }
    sent = {path.split("/")[1]: "authorization" in headers for _, path, headers in hub.requests}
    assert sent == {"api": True, "datasets": True, "cdn": False}  # the token stays at the hub
    licences = (tmp_path / "raw" / "LICENCES.md").read_text()
    assert "## vista_400k" in licences
    assert "Licence: MIT" in licences
    assert commit in licences
    assert not (raw / ".download").exists()


def test_a_second_run_fetches_nothing(hub, fetch, raw):
    hub.add(VISTA, FILES)
    fetch()
    hub.requests.clear()
    assert fetch() == {}
    assert not [path for _, path, _ in hub.requests if "/resolve/" in path]


@pytest.mark.parametrize("kind", ["reset", "close"])
def test_a_connection_that_breaks_in_a_file_costs_nothing_but_time(
    hub, fetch, raw, kind, no_waiting
):
    hub.add(VISTA, FILES)
    hub.fault(TAR, kind)
    assert fetch() == {}
    assert on_disk(raw) == WANTED


def test_a_closed_connection_goes_on_in_the_middle(hub, fetch, raw, no_waiting):
    big = noise(4, 22_000_000)  # the client hands on blocks of ten megabytes
    hub.add(VISTA, {"long_video_caption/long_video_caption_1.tar": big})
    hub.fault(TAR, "close")
    assert fetch() == {}
    assert on_disk(raw) == {"long_video_caption/long_video_caption_1.tar": big}
    assert any(h.get("range") for m, path, h in hub.requests if m == "GET" and path.endswith(TAR))


@pytest.mark.parametrize("method", ["HEAD", "GET"])
@pytest.mark.parametrize("status", ["429", "503"])
def test_a_busy_hub_is_asked_again(hub, fetch, raw, status, method, no_waiting):
    hub.add(VISTA, FILES)
    path = TAR if method == "GET" else "long_video_caption.json"
    hub.fault(path, status, method=method, times=2, headers={"Retry-After": "7"})
    assert fetch() == {}
    assert on_disk(raw) == WANTED
    if method == "HEAD" or status == "429":
        assert 8.0 in no_waiting  # the client's own: what the hub asks, and a second


@pytest.mark.parametrize("address", ["revision/main", "tree"])
@pytest.mark.parametrize("status", ["429", "503"])
def test_a_busy_listing_is_asked_again(hub, fetch, raw, status, address, no_waiting):
    commit = hub.add(VISTA, FILES)
    hub.fault(address if "/" in address else f"tree/{commit}", status, times=2)
    assert fetch() == {}
    assert on_disk(raw) == WANTED


def test_a_hub_that_stays_busy_is_given_up_and_the_rest_arrives(hub, fetch, raw, no_waiting):
    hub.add(VISTA, FILES)
    hub.fault(TAR, "503", times=1000)
    (lines,) = fetch().values()
    assert lines == [f"1 files: the hub answers 503: long_video_caption/{TAR}"]
    assert len(on_disk(raw)) == len(WANTED) - 1
    hub.faults.clear()
    assert fetch() == {}
    assert on_disk(raw) == WANTED


@pytest.mark.parametrize("kind", ["corrupt", "short", "long"])
def test_what_arrives_wrong_is_fetched_once_more(hub, fetch, raw, kind, no_waiting):
    hub.add(VISTA, FILES)
    hub.fault(TAR, kind)
    assert fetch() == {}
    assert on_disk(raw) == WANTED


@pytest.mark.parametrize("kind", ["corrupt", "short", "long"])
@pytest.mark.parametrize("name", [TAR, "long_video_caption.json"])
def test_what_stays_wrong_is_named_and_never_put_in_place(hub, fetch, raw, kind, name, no_waiting):
    hub.add(VISTA, FILES)
    hub.fault(name, kind, times=1000)
    (lines,) = fetch().values()
    assert len(lines) == 1
    assert f"long_video_caption/{name}" in lines[0]
    assert ("the hub lists" if kind == "corrupt" else "size") in lines[0]
    assert set(on_disk(raw)) == set(WANTED) - {f"long_video_caption/{name}"}
    assert_nothing_half(raw)
    assert not Record.load(raw).complete
    hub.faults.clear()
    assert fetch() == {}
    assert on_disk(raw) == WANTED


def test_a_file_that_disappears_is_named_and_the_rest_arrives(hub, fetch, raw):
    hub.add(VISTA, FILES)
    hub.fault(TAR, "gone", method="HEAD", times=1000)
    hub.fault(TAR, "gone", times=1000)
    (lines,) = fetch().values()
    assert "the file is not on the hub any more; --revision vista_400k=main moves on" in lines[0]
    assert set(on_disk(raw)) == set(WANTED) - {f"long_video_caption/{TAR}"}
    hub.faults.clear()
    assert fetch() == {}


def test_a_gate_explains_itself_and_other_sources_go_on(hub, fetch, raw, settings, tmp_path):
    hub.add(VISTA, FILES)
    hub.add(GATED, {"data/train-0.parquet": noise(5), "data/train-1.parquet": noise(6)}, gated=True)
    both = select(sources=["vista_400k"]) + [
        replace(s, source=replace(s.source, repos=(replace(s.source.repos[0], **MAIN),)))
        for s in select(sources=["finevideo"])
    ]
    (lines,) = [v for k, v in fetch(both).items() if k == "finevideo"]
    assert "2 files" in lines[0]
    assert "accept the terms on https://huggingface.co/datasets/HuggingFaceFV/finevideo" in lines[0]
    assert "HF_TOKEN" in lines[0]
    assert on_disk(raw) == WANTED
    assert hub.count("HEAD", "train-0.parquet") + hub.count("HEAD", "train-1.parquet") <= 2
    good = replace(settings, token="hf_good")
    plan = make_plan(both, tmp_path, good)
    assert run_plan(plan, good, threading.Event()) == {}
    assert len(on_disk(tmp_path / "raw" / "HuggingFaceFV__finevideo")) == 2


MAIN = {"revision": "main", "abbreviated": False, "pinned": False}


def test_an_abbreviated_commit_is_completed_from_the_history(hub, fetch, tmp_path):
    commit = hub.add(GATED, {"data/train-0.parquet": noise(5)})
    hub.add(GATED, {"data/train-0.parquet": noise(6)})
    (choice,) = select(sources=["finevideo"])
    repo = replace(choice.source.repos[0], revision=commit[:8])
    pinned = replace(choice, source=replace(choice.source, repos=(repo,)))
    assert fetch([pinned]) == {}
    raw = tmp_path / "raw" / "HuggingFaceFV__finevideo"
    assert on_disk(raw) == {"data/train-0.parquet": noise(5)}
    missing = fetch(select(sources=["finevideo"]), moved_on={GATED})
    assert "0 commits begin with the pinned 84c74091" in missing["finevideo"][0]


def test_a_missing_repository_is_said_and_others_go_on(hub, fetch, raw):
    hub.add(VISTA, FILES)
    missing = fetch(select(sources=["vista_400k", "m4_instruct"]))
    assert "does not exist, or is private" in missing["m4_instruct"][0]
    assert on_disk(raw) == WANTED


def test_a_folder_stays_at_its_commit_until_told_otherwise(hub, fetch, raw):
    first = hub.add(VISTA, FILES)
    fetch()
    changed = {**FILES, f"long_video_caption/{TAR}": noise(9)}
    second = hub.add(VISTA, changed)
    (raw / "long_video_caption" / "long_video_caption_2.tar").unlink()
    assert fetch() == {}
    assert on_disk(raw) == WANTED
    assert Record.load(raw).commits[VISTA] == first
    assert fetch(moved_on={VISTA}) == {}
    assert on_disk(raw)[f"long_video_caption/{TAR}"] == noise(9)
    assert Record.load(raw).commits[VISTA] == second


def test_a_commit_that_left_the_hub_says_how_to_move_on(hub, fetch, raw):
    hub.add(VISTA, FILES)
    fetch()
    hub.repos.clear()
    hub.add(VISTA, {"README.md": b"new"})
    (lines,) = fetch().values()
    assert "--revision vista_400k=main moves on to the present commit" in lines[0]
    assert on_disk(raw) == WANTED


def test_consumed_files_count_as_present(hub, fetch, raw):
    hub.add(VISTA, FILES)
    fetch()
    name = f"long_video_caption/{TAR}"
    (raw / name).unlink()
    (raw / "consumed.json").write_text(json.dumps({"files": [{"file": name, "size": 50_000}]}))
    assert fetch() == {}
    assert not (raw / name).exists()


def test_a_changed_file_is_found_by_size_and_otherwise_by_verify(hub, fetch, raw):
    hub.add(VISTA, FILES)
    fetch()
    path = raw / "long_video_caption" / TAR
    path.write_bytes(b"cut short")
    assert fetch() == {}
    assert on_disk(raw) == WANTED
    path.write_bytes(bytes(50_000))
    assert fetch() == {}
    assert on_disk(raw) != WANTED
    assert fetch(verify=True) == {}
    assert on_disk(raw) == WANTED


def test_files_without_a_record_are_recognised_by_content(hub, fetch, raw):
    hub.add(VISTA, FILES)
    fetch()
    (raw / "download.json").unlink()
    hub.requests.clear()
    assert fetch() == {}
    assert not [path for _, path, _ in hub.requests if "/resolve/" in path]
    assert Record.load(raw).files.keys() == WANTED.keys()


def test_a_damaged_record_is_refused(hub, fetch, raw):
    raw.mkdir(parents=True)
    (raw / "download.json").write_text("{")
    with pytest.raises(DataError, match=r"download\.json: not valid JSON .*delete it"):
        fetch()
    (raw / "download.json").write_text("[]")
    with pytest.raises(DataError, match="expected a JSON object, found list"):
        fetch()


def test_a_path_out_of_the_raw_folder_is_refused(hub, fetch, raw):
    hub.add(VISTA, {"../../evil.tar": b"x", "README.md": b"card"})
    (lines,) = fetch().values()
    assert "would leave the raw folder" in lines[0]
    assert not raw.exists()


def test_a_second_download_to_the_same_folder_is_refused(hub, fetch, settings, tmp_path):
    hub.add(VISTA, FILES)
    refused = []

    def start_another() -> None:
        plan = make_plan(CHOICE, tmp_path, settings)
        with pytest.raises(DataError, match="another process is downloading to this folder"):
            run_plan(plan, settings, threading.Event())
        refused.append(True)

    hub.fault(TAR, "", action=start_another)
    assert fetch() == {}
    assert refused


def test_too_small_a_disk_is_refused_before_a_byte_moves(hub, fetch, raw, monkeypatch):
    hub.add(VISTA, FILES)
    usage = shutil.disk_usage(raw.anchor)._replace(free=1_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(DataError, match=r"200 kB are to be fetched .* 1 kB are free, .* missing"):
        fetch()
    assert not [path for _, path, _ in hub.requests if "/resolve/" in path]


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small file system needs root")
@pytest.mark.filterwarnings("ignore:Not enough free disk space")
def test_a_disk_that_fills_up_is_reported_and_a_rerun_completes(
    hub, settings, tmp_path, monkeypatch
):
    data = tmp_path / "small"
    data.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", str(data)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("no permission to mount a file system")
    try:
        monkeypatch.setattr("smolvlm2.data.download.disk.MARGIN", 0)
        big = noise(7, 12_000_000)
        files = {**FILES, f"long_video_caption/{TAR}": big}
        hub.add(VISTA, files)
        filler = data / "filler"

        def fill_up() -> None:
            with filler.open("wb", buffering=0) as file, pytest.raises(OSError, match="space"):
                while True:
                    file.write(bytes(4096))

        hub.fault(TAR, "", action=fill_up)
        one = replace(settings, workers=1)
        (lines,) = run_plan(make_plan(CHOICE, data, one), one, threading.Event()).values()
        assert "the disk is full" in lines[0]
        assert "run the same command again" in lines[0]
        raw = data / "raw" / "TIGER-Lab__VISTA-400K"
        wanted = {name: content for name, content in files.items() if name in WANTED}
        assert_nothing_half(raw, wanted)
        assert f"long_video_caption/{TAR}" not in on_disk(raw)
        filler.unlink()
        assert run_plan(make_plan(CHOICE, data, one), one, threading.Event()) == {}
        assert on_disk(raw) == wanted
    finally:
        subprocess.run(["umount", str(data)], check=True)


def test_ctrl_c_ends_at_once_and_a_rerun_completes(hub, tmp_path, raw, fetch):
    big = {**FILES, "long_video_caption/long_video_caption_3.tar": noise(8, 22_000_000)}
    hub.add(VISTA, big)
    process: list[subprocess.Popen[str]] = []
    started, ended = threading.Event(), threading.Event()

    def interrupt() -> None:
        started.wait(60)
        process[0].send_signal(signal.SIGINT)
        ended.wait(60)

    hub.fault("caption_3.tar", "", action=interrupt)
    command = [sys.executable, "-m", "smolvlm2.data.download_datasets", "--source", "vista_400k"]
    process.append(
        subprocess.Popen(
            [*command, "--data", str(tmp_path), "--yes", "--token", "hf_none"],
            env={**os.environ, "HF_ENDPOINT": hub.endpoint},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
    )
    started.set()
    try:
        _, errors = process[0].communicate(timeout=60)
    finally:
        ended.set()
    assert process[0].returncode == 130
    assert "The same command goes on with the rest" in errors
    wanted = {path: data for path, data in big.items() if path.endswith((".tar", ".json", ".md"))}
    assert_nothing_half(raw, wanted)
    assert "long_video_caption/long_video_caption_3.tar" not in on_disk(raw)
    assert len(on_disk(raw)) == len(WANTED)
    assert Record.load(raw).files.keys() == WANTED.keys()
    assert fetch() == {}
    assert on_disk(raw) == wanted


def test_the_plan_says_what_is_here_and_what_is_to_come(hub, fetch, settings, tmp_path):
    commit = hub.add(VISTA, FILES)
    fetch(select(subsets=["vista_400k:event_relationship_qa"]))
    plan = make_plan(CHOICE, tmp_path, settings, max_bytes=120_000)
    text = describe_plan(plan)
    assert commit[:8] in text
    assert plan.present == {"vista_400k": 3}
    assert "to fetch: 1 files, 50 kB" in text
    assert "left out by --max-gb: 2 files, 100 kB: long_video_caption" in text


def test_a_subset_that_the_hub_does_not_have_is_said(hub, fetch, raw):
    hub.add(VISTA, FILES)
    missing = fetch(select(subsets=["vista_400k:long_*", "vista_400k:hr_*"]))
    assert missing == {"vista_400k": ["the hub has no files of subset 'hr_*'"]}
    assert set(on_disk(raw)) == {p for p in WANTED if p.startswith(("long", "README"))}
