"""From a selection to a folder that is complete, or says what is missing."""

import errno
import fcntl
import hashlib
import json
import random
import re
import shutil
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from smolvlm2.data.download.plan import describe_plan, make_plan
from smolvlm2.data.download.record import Record
from smolvlm2.data.download.run import run_plan
from smolvlm2.data.download.selection import Selection, select
from smolvlm2.data.download.transfer import staging_folder
from smolvlm2.errors import DataError

CHOICE = select(sources=["vista_400k"])
TAR = "long_video_caption_1.tar"
GATED = "HuggingFaceFV/finevideo"
MAIN = {"revision": "main", "abbreviated": False, "pinned": False}
"""A repository that is not pinned."""


def noise(seed: int, size: int = 50_000) -> bytes:
    return random.Random(seed).randbytes(size)


def finevideo_files(data: Path) -> dict[str, bytes]:
    files = (data / "raw" / "HuggingFaceFV__finevideo" / "data").iterdir()
    return {path.name: path.read_bytes() for path in files}


def test_the_wanted_files_arrive_and_are_recorded(hub, fetch, vista, tmp_path):
    commit = vista.publish()
    assert fetch() == {}
    assert vista.on_disk() == vista.wanted
    record = json.loads((vista.raw / "download.json").read_text())
    assert record["commits"] == {vista.hub_id: commit}
    assert record["complete"] is True
    tar = "long_video_caption/long_video_caption_1.tar"
    assert record["files"][tar] == {
        "size": 50_000,
        "digest": f"sha256:{hashlib.sha256(vista.files[tar]).hexdigest()}",
    }
    sent = {path.split("/")[1]: "authorization" in headers for _, path, headers in hub.requests}
    assert sent == {"api": True, "datasets": True, "cdn": False}  # the token stays at the hub
    licences = (tmp_path / "raw" / "LICENCES.md").read_text()
    assert "## vista_400k" in licences
    assert "Licence: MIT" in licences
    assert commit in licences
    assert not (vista.raw / ".download").exists()


def test_a_second_run_fetches_nothing(hub, fetch, vista):
    vista.publish()
    fetch()
    hub.requests.clear()
    assert fetch() == {}
    assert not [path for _, path, _ in hub.requests if "/resolve/" in path]


def test_a_gate_explains_itself_and_other_sources_go_on(hub, vista, settings, tmp_path):
    vista.publish()
    hub.add(GATED, {"data/train-0.parquet": noise(5), "data/train-1.parquet": noise(6)}, gated=True)
    both = select(sources=["vista_400k"]) + [
        replace(s, source=replace(s.source, repos=(replace(s.source.repos[0], **MAIN),)))
        for s in select(sources=["finevideo"])
    ]
    one = replace(settings, workers=1)
    missing = run_plan(make_plan(both, tmp_path, one), one, threading.Event())
    assert list(missing) == ["finevideo"]
    (lines,) = missing.values()
    assert "data/train-0.parquet, data/train-1.parquet: the terms are not accepted" in lines[0]
    assert "accept the terms on https://huggingface.co/datasets/HuggingFaceFV/finevideo" in lines[0]
    assert "HF_TOKEN" in lines[0]
    assert vista.on_disk() == vista.wanted
    assert not hub.count("HEAD", "train-1.parquet")  # one refusal is enough
    good = replace(settings, token="hf_good")
    plan = make_plan(both, tmp_path, good)
    assert run_plan(plan, good, threading.Event()) == {}
    assert sorted(finevideo_files(tmp_path)) == ["train-0.parquet", "train-1.parquet"]


def test_an_abbreviated_commit_is_completed_from_the_history(hub, fetch, tmp_path):
    commit = hub.add(GATED, {"data/train-0.parquet": noise(5)})
    hub.add(GATED, {"data/train-0.parquet": noise(6)})
    (choice,) = select(sources=["finevideo"])
    repo = replace(choice.source.repos[0], revision=commit[:8])
    pinned = replace(choice, source=replace(choice.source, repos=(repo,)))
    assert fetch([pinned]) == {}
    assert finevideo_files(tmp_path) == {"train-0.parquet": noise(5)}
    missing = fetch(select(sources=["finevideo"]), moved_on={GATED})
    assert "0 commits begin with the pinned 84c74091" in missing["finevideo"][0]


def test_a_missing_repository_is_said_and_others_go_on(fetch, vista):
    vista.publish()
    missing = fetch(select(sources=["vista_400k", "m4_instruct"]))
    assert "does not exist, or is private" in missing["m4_instruct"][0]
    assert vista.on_disk() == vista.wanted


def test_a_folder_stays_at_its_commit_until_told_otherwise(hub, fetch, vista):
    first = vista.publish()
    fetch()
    changed = {**vista.files, f"long_video_caption/{TAR}": noise(9)}
    second = hub.add(vista.hub_id, changed)
    (vista.raw / "long_video_caption" / "long_video_caption_2.tar").unlink()
    assert fetch() == {}
    assert vista.on_disk() == vista.wanted
    assert Record.load(vista.raw).commits[vista.hub_id] == first
    assert fetch(moved_on={vista.hub_id}) == {}
    assert vista.on_disk()[f"long_video_caption/{TAR}"] == noise(9)
    assert Record.load(vista.raw).commits[vista.hub_id] == second


def test_a_commit_that_left_the_hub_says_how_to_move_on(hub, fetch, vista):
    vista.publish()
    fetch()
    hub.repos.clear()
    hub.add(vista.hub_id, {"README.md": b"new"})
    (lines,) = fetch().values()
    assert "--revision vista_400k=main moves on to the present commit" in lines[0]
    assert vista.on_disk() == vista.wanted


def test_consumed_files_count_as_present(fetch, vista):
    vista.publish()
    fetch()
    name = f"long_video_caption/{TAR}"
    (vista.raw / name).unlink()
    (vista.raw / "consumed.json").write_text(
        json.dumps({"files": [{"file": name, "size": 50_000}]})
    )
    assert fetch() == {}
    assert not (vista.raw / name).exists()


def test_a_changed_file_is_found_by_size_and_otherwise_by_verify(fetch, vista):
    vista.publish()
    fetch()
    path = vista.raw / "long_video_caption" / TAR
    path.write_bytes(b"cut short")
    assert fetch() == {}
    assert vista.on_disk() == vista.wanted
    path.write_bytes(bytes(50_000))
    assert fetch() == {}
    assert vista.on_disk() != vista.wanted
    assert fetch(verify=True) == {}
    assert vista.on_disk() == vista.wanted


def test_files_without_a_record_are_recognised_by_content(hub, fetch, vista):
    vista.publish()
    fetch()
    (vista.raw / "download.json").unlink()
    hub.requests.clear()
    assert fetch() == {}
    assert not [path for _, path, _ in hub.requests if "/resolve/" in path]
    assert Record.load(vista.raw).files.keys() == vista.wanted.keys()


def test_a_damaged_record_is_refused(fetch, vista):
    vista.raw.mkdir(parents=True)
    (vista.raw / "download.json").write_text("{")
    with pytest.raises(DataError, match=r"download\.json: not valid JSON .*delete it"):
        fetch()
    (vista.raw / "download.json").write_text("[]")
    with pytest.raises(DataError, match="expected a JSON object, found list"):
        fetch()


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("download.json", {"commits": []}, "'commits' is of type list, expected dict"),
        ("download.json", {"complete": "yes"}, "'complete' is of type str, expected bool"),
        ("download.json", {"files": {"a.tar": 1}}, "an entry of 'files' is no object"),
        ("consumed.json", {"files": ["a.tar"]}, "has no 'file' and 'size'; repair it"),
        ("consumed.json", {"files": {"a.tar": 1}}, "'files' is of type dict, expected list"),
    ],
)
def test_a_record_of_another_form_is_refused(tmp_path, name, value, message):
    (tmp_path / name).write_text(json.dumps(value))
    with pytest.raises(DataError, match=re.escape(name) + ".*" + message):
        Record.load(tmp_path)


def test_a_published_file_with_the_name_of_the_record_is_refused(hub, fetch, vista):
    (choice,) = CHOICE
    repo = replace(choice.source.repos[0], folder="", files=("*",))
    source = replace(choice.source, repos=(repo,))
    hub.add(repo.hub_id, {"download.json": b"{}"})
    (lines,) = fetch([Selection(source=source)]).values()
    assert "would overwrite the record" in lines[0]
    assert not vista.raw.exists()


def test_a_path_out_of_the_raw_folder_is_refused(hub, fetch, vista):
    hub.add(vista.hub_id, {"../../evil.tar": b"x", "README.md": b"card"})
    (lines,) = fetch().values()
    assert "would leave the raw folder" in lines[0]
    assert not vista.raw.exists()


def test_a_second_download_to_the_same_folder_is_refused(vista, hub, fetch, settings, tmp_path):
    vista.publish()
    refused = []

    def start_another() -> None:
        plan = make_plan(CHOICE, tmp_path, settings)
        with pytest.raises(DataError, match="another process is downloading to this folder"):
            run_plan(plan, settings, threading.Event())
        refused.append(True)

    hub.fault(TAR, "", action=start_another)
    assert fetch() == {}
    assert refused


def test_too_small_a_disk_is_refused_before_a_byte_moves(hub, fetch, vista, monkeypatch):
    vista.publish()
    usage = shutil.disk_usage(vista.raw.anchor)._replace(free=1_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(DataError, match=r"200 kB are to be fetched .* 1 kB are free, .* missing"):
        fetch()
    assert not [path for _, path, _ in hub.requests if "/resolve/" in path]


def test_the_plan_says_what_is_here_and_what_is_to_come(vista, fetch, settings, tmp_path):
    commit = vista.publish()
    fetch(select(subsets=["vista_400k:event_relationship_qa"]))
    plan = make_plan(CHOICE, tmp_path, settings, max_bytes=120_000)
    text = describe_plan(plan)
    assert commit[:8] in text
    assert plan.present == {"vista_400k": 3}
    assert "files to fetch: 1, 50 kB" in text
    assert re.search(r"left out by --max-gb: long_\S+_1\.tar, long_\S+_2\.tar, 100 kB", text)


def test_a_subset_that_the_hub_does_not_have_is_said(hub, fetch, vista):
    vista.publish()
    missing = fetch(select(subsets=["vista_400k:long_*", "vista_400k:hr_*"]))
    assert missing == {"vista_400k": ["the hub has no files of subset 'hr_*'"]}
    assert set(vista.on_disk()) == {p for p in vista.wanted if p.startswith(("long", "README"))}


def test_a_source_that_a_budget_leaves_out_is_not_complete(hub, fetch, vista):
    vista.publish()
    assert fetch(max_bytes=1) == {}
    assert not Record.load(vista.raw).complete


def test_what_is_of_an_earlier_commit_is_deleted_so_that_prepare_sees_one(
    fetch, vista, settings, tmp_path
):
    vista.publish()
    fetch()
    (vista.raw / "notes.txt").write_text("mine")
    del vista.files[f"long_video_caption/{TAR}"]
    vista.files["event_relationship_qa/event_relationship_qa.json"] = b"[{}]"
    vista.files["long_video_caption/long_video_caption_9.tar"] = noise(9)
    vista.publish()
    part = select(subsets=["vista_400k:long_video_caption"])
    plan = make_plan(part, tmp_path, settings, moved_on={vista.hub_id})
    assert "vista_400k: 2 files are not so in the new commit and will be" in describe_plan(plan)
    assert run_plan(plan, settings, threading.Event()) == {}
    expected = {**vista.wanted, "notes.txt": b"mine"}
    del expected["event_relationship_qa/event_relationship_qa.json"]  # not of this selection
    assert vista.on_disk() == expected
    assert Record.load(vista.raw).files.keys() == expected.keys() - {"notes.txt"}


def test_a_plan_that_another_download_has_overtaken_is_refused(fetch, vista, settings, tmp_path):
    vista.publish()
    plan = make_plan(CHOICE, tmp_path, settings)
    fetch()
    before = (vista.raw / "download.json").read_bytes()
    with pytest.raises(DataError, match="changed this folder's commit meanwhile; run the same"):
        run_plan(plan, settings, threading.Event())
    assert (vista.raw / "download.json").read_bytes() == before


def test_a_file_system_without_locks_is_said_and_used(tmp_path, monkeypatch, capsys):
    def refuse(*arguments: object) -> None:
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with staging_folder(tmp_path / "raw"):
        pass
    assert "this file system has no locks (Function not implemented)" in capsys.readouterr().err
