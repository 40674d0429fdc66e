"""Prepare that is killed, shared among tasks, run twice at once, or rid of its raw files."""

import json
import os
import shutil
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from smolvlm2.data import prepare as prepare_module
from smolvlm2.data.inputs import CONSUMED_FILE
from smolvlm2.data.kept_frames import FrameSettings
from smolvlm2.data.manifest import Manifest
from smolvlm2.data.media import MediaStore
from smolvlm2.data.part_files import Account
from smolvlm2.data.prepare import PrepareSettings, map_share, prepare_source
from smolvlm2.data.shards import unfinished_name
from smolvlm2.data.sources.cauldron import ImagesAndTexts
from smolvlm2.data.sources.llava import LlavaVideo
from smolvlm2.errors import DataError

CLIPS = LlavaVideo(source="clips", licence="none")
PAGES = ImagesAndTexts(source="pages", licence="none")


@pytest.fixture
def clips(raw, clip, png, write_tar):
    """Two files of rows and two archives of clips, one repacked and one read in place."""
    (raw / "cfg").mkdir()
    for part, mode in ((1, "w:gz"), (2, "w")):
        ending = "tar.gz" if mode == "w:gz" else "tar"
        members = {f"v/{part}-{n}.mp4": clip(16 * part + n) for n in range(3)}
        write_tar(raw / "cfg" / f"cfg_videos_{part}.{ending}", members, mode)
        rows = [
            {
                "id": f"{part}-{n}",
                "data_source": "cfg",
                "video": f"v/{part}-{n % 4}.mp4",
                "conversations": [
                    {"from": "human", "value": f"<image>\n{n % 5}?"},
                    {"from": "gpt", "value": "a"},
                ],
            }
            for n in range(8)
        ]
        (raw / "cfg" / f"cfg_{part}_processed.json").write_text(json.dumps(rows))
    return raw


@pytest.fixture
def out(raw):
    """Where the source goes."""
    return raw.parents[1] / "prepared" / "clips"


# Killed at the given call of a function; never where that is 0.
KILLED = """
import os, signal, sys
from pathlib import Path
from smolvlm2.data import {module} as module
from smolvlm2.data.prepare import prepare_source
from smolvlm2.data.sources.llava import LlavaVideo
from smolvlm2.processing.tokenizer import Tokenizer
owner = module
*names, last = "{function}".split(".")
for name in names:
    owner = getattr(owner, name)
plain, calls = getattr(owner, last), []
def dying(*args, **kwargs):
    calls.append(1)
    if len(calls) == {call}:
        os.kill(os.getpid(), signal.SIGKILL)
    return plain(*args, **kwargs)
setattr(owner, last, dying)
raw, out = map(Path, sys.argv[1:3])
adapter = LlavaVideo(source="clips", licence="none")
prepare_source(adapter, raw, out, Tokenizer.from_pretrained(sys.argv[3]))
"""


@pytest.mark.parametrize(
    ("module", "function", "call"),
    [
        ("shards", "ShardMember.keep", 2),
        ("parts", "Account.save", 1),
        ("parts", "Account.save", 3),
        ("prepare", "join_rows", 2),
        ("reduction", "content_hash", 1),
        ("prepare", "write_token_columns", 1),
        ("finishing", "make_durable", 5),
        ("finishing", "os.link", 1),
        ("finishing", "discard", 1),
        ("finishing", "shutil.rmtree", 2),
    ],
)
def test_a_killed_run_goes_on_to_the_same_result(
    clips, out, tokenizer, tmp_path, tree_bytes, module, function, call
):
    prepare_source(CLIPS, clips, out, tokenizer)
    whole = tree_bytes(out)
    shutil.rmtree(out)
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    code = KILLED.format(module=module, function=function, call=call)
    command = [sys.executable, "-c", code, str(clips), str(out), str(tmp_path / "tokenizer")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    prepare_source(CLIPS, clips, out, tokenizer)
    assert tree_bytes(out) == whole
    assert [path.name for path in out.parent.iterdir()] == ["clips"]


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1)])
def test_tasks_in_any_order_give_the_same_result(clips, out, tokenizer, tree_bytes, order):
    prepare_source(CLIPS, clips, out, tokenizer)
    whole = tree_bytes(out)
    shutil.rmtree(out)
    left = [map_share(CLIPS, clips, out, (number, 3)).left for number in order]
    assert left == [2, 1, 0] if order[0] == 0 else left[-1] == 0
    prepare_source(CLIPS, clips, out, tokenizer)
    assert tree_bytes(out) == whole
    assert map_share(CLIPS, clips, out, (0, 3)).left == 0


def test_the_finishing_run_maps_what_no_task_has_mapped(clips, out, tokenizer, tree_bytes):
    prepare_source(CLIPS, clips, out, tokenizer)
    whole = tree_bytes(out)
    shutil.rmtree(out)
    map_share(CLIPS, clips, out, (1, 3))
    prepare_source(CLIPS, clips, out, tokenizer, PrepareSettings(workers=2))
    assert tree_bytes(out) == whole


def test_two_runs_at_once_give_one_result(clips, out, tokenizer, tmp_path, tree_bytes):
    prepare_source(CLIPS, clips, out, tokenizer)
    whole = tree_bytes(out)
    shutil.rmtree(out)
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    code = KILLED.format(module="prepare", function="finish", call=0)
    command = [sys.executable, "-c", code, str(clips), str(out), str(tmp_path / "tokenizer")]
    with ThreadPoolExecutor(2) as pool:
        runs = [
            pool.submit(subprocess.run, command, capture_output=True, text=True, check=False)
            for _ in range(2)
        ]
        for run in runs:
            assert run.result().returncode == 0, run.result().stderr
    assert tree_bytes(out) == whole
    assert [path.name for path in out.parent.iterdir()] == ["clips"]


def test_a_run_that_comes_second_to_the_end_takes_the_firsts_result(
    clips, out, tokenizer, monkeypatch
):
    plain = prepare_module.finish

    def after_another(*args):
        monkeypatch.setattr(prepare_module, "finish", plain)
        prepare_source(CLIPS, clips, out, tokenizer)
        plain(*args)

    monkeypatch.setattr(prepare_module, "finish", after_another)
    summary = prepare_source(CLIPS, clips, out, tokenizer)
    assert len(Manifest.open(out, tokenizer.key)) == summary.rows_kept
    assert [path.name for path in out.parent.iterdir()] == ["clips"]


def test_a_run_with_other_settings_at_once_is_named(clips, out, tokenizer, monkeypatch):
    plain, frames = prepare_module.map_input, PrepareSettings(frames=FrameSettings())

    def before_another(place, item, stamp):
        account = plain(place, item, stamp)
        if item.kind == "rows" and place.frames is None:
            map_share(CLIPS, clips, out, (0, 1), frames)
        return account

    monkeypatch.setattr(prepare_module, "map_input", before_another)
    with pytest.raises(DataError, match="replaced meanwhile; is the source also being prepared"):
        prepare_source(CLIPS, clips, out, tokenizer)


@pytest.mark.parametrize("frames", [None, FrameSettings()])
def test_a_part_that_another_recipe_has_half_replaced_is_made_anew(
    clips, out, tokenizer, monkeypatch, tree_bytes, frames
):
    prepare_source(CLIPS, clips, out, tokenizer, PrepareSettings(frames=frames))
    whole = tree_bytes(out)
    shutil.rmtree(out)
    map_share(CLIPS, clips, out, (0, 1), PrepareSettings(frames=frames))
    other = PrepareSettings(frames=FrameSettings() if frames is None else None)
    with monkeypatch.context() as patch:
        patch.setattr(Account, "save", _stop)
        with pytest.raises(KeyboardInterrupt):
            map_share(CLIPS, clips, out, (0, 1), other)
    prepare_source(CLIPS, clips, out, tokenizer, PrepareSettings(frames=frames))
    assert tree_bytes(out) == whole


@pytest.mark.parametrize("moment", ["add_tokens", "_join"])
def test_parts_that_another_recipe_replaces_during_the_reduce_are_noticed(
    clips, out, tokenizer, monkeypatch, moment
):
    plain = getattr(prepare_module._Job, moment)

    def after_another(*args):
        monkeypatch.undo()
        map_share(CLIPS, clips, out, (0, 1), PrepareSettings(frames=FrameSettings()))
        return plain(*args)

    monkeypatch.setattr(prepare_module._Job, moment, after_another)
    with pytest.raises(DataError, match="replaced meanwhile; is the source also being prepared"):
        prepare_source(CLIPS, clips, out, tokenizer)
    assert not out.exists()


def _stop(*_: object) -> None:
    raise KeyboardInterrupt


def _refuse(*_: object) -> None:
    raise PermissionError(1, os.strerror(1))


def test_shards_are_moved_where_a_file_has_but_one_name(
    clips, out, tokenizer, monkeypatch, tree_bytes
):
    prepare_source(CLIPS, clips, out, tokenizer)
    whole = tree_bytes(out)
    shutil.rmtree(out)
    monkeypatch.setattr(os, "link", _refuse)
    prepare_source(CLIPS, clips, out, tokenizer)
    assert tree_bytes(out) == whole


def test_what_a_killed_run_had_not_yet_removed_goes_with_the_next(clips, out, tokenizer):
    prepare_source(CLIPS, clips, out, tokenizer)
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    name = unfinished_name("clips.partial.gone").replace(str(os.getpid()), str(child.pid))
    (out.parent / name / "parts").mkdir(parents=True)
    prepare_source(CLIPS, clips, out, tokenizer)
    assert [path.name for path in out.parent.iterdir()] == ["clips"]


def test_a_source_with_a_similar_name_is_left_alone(clips, out, tokenizer):
    (out.parent / "clips.old").mkdir(parents=True)
    prepare_source(CLIPS, clips, out, tokenizer)
    (clips / "new.mp4").write_bytes(b"no clip")
    prepare_source(CLIPS, clips, out, tokenizer)
    assert sorted(path.name for path in out.parent.iterdir()) == ["clips", "clips.old"]


def write_pages(raw, png, cauldron_row, write_rows):
    for number in range(2):
        rows = [cauldron_row([png(10 * number + k)], ("q", "a")) for k in range(3)]
        write_rows(raw / f"train-0000{number}-of-00002.parquet", rows)


@pytest.mark.parametrize("workers", [0, 2])
def test_consumed_files_are_in_the_shards(
    raw, prepare, png, cauldron_row, write_rows, tree_bytes, workers
):
    write_pages(raw, png, cauldron_row, write_rows)
    folder, first = prepare(PAGES)
    whole = tree_bytes(folder)
    shutil.rmtree(folder)
    _, second = prepare(PAGES, consume=True, workers=workers)
    assert list(raw.glob("*.parquet")) == []
    assert second == first
    assert tree_bytes(folder) == whole
    entries = json.loads((raw / CONSUMED_FILE).read_text())["files"]
    assert sorted(entry["file"] for entry in entries) == [
        "train-00000-of-00002.parquet", "train-00001-of-00002.parquet",
    ]  # fmt: skip
    # With nothing but the list left, the source is still finished.
    assert prepare(PAGES)[1] == first


def test_files_mapped_before_can_be_consumed_later(
    raw, prepare, png, cauldron_row, write_rows, tree_bytes
):
    write_pages(raw, png, cauldron_row, write_rows)
    folder, _ = prepare(PAGES)
    whole = tree_bytes(folder, skip=("inputs.json",))
    shutil.rmtree(folder)
    map_share(PAGES, raw, folder, (0, 1))
    map_share(PAGES, raw, folder, (0, 1), PrepareSettings(consume=True))
    assert list(raw.glob("*.parquet")) == []
    prepare(PAGES)
    # Only the times of the raw files are no longer known.
    assert tree_bytes(folder, skip=("inputs.json",)) == whole


def test_archives_that_are_read_in_place_stay(clips, prepare):
    folder, _ = prepare(CLIPS, consume=True)
    assert sorted(path.name for path in (clips / "cfg").iterdir()) == [
        "cfg_1_processed.json", "cfg_2_processed.json", "cfg_videos_2.tar",
    ]  # fmt: skip
    manifest = Manifest.open(folder)
    store = MediaStore(manifest.data_root)
    for number in range(len(manifest)):
        assert store.read(manifest.row(number).media[0])


def test_an_archive_that_is_cut_off_is_not_consumed(clips, prepare):
    path = clips / "cfg" / "cfg_videos_1.tar.gz"
    path.write_bytes(path.read_bytes()[:-200])
    prepare(CLIPS, consume=True)
    assert path.exists()


def test_kept_frames_need_no_clip_any_more(clips, prepare, clip, tokenizer, tree_bytes):
    (clips / "cfg" / "v").mkdir()
    (clips / "cfg" / "v" / "1-3.mp4").write_bytes(clip(40))
    (clips / "cfg" / "v" / "2-3.mp4").write_bytes(b"\0no clip")
    frames = FrameSettings(fps=2, max_frames=3)
    folder, summary = prepare(CLIPS, frames=frames)
    whole = tree_bytes(folder)
    shutil.rmtree(folder)
    prepare(CLIPS, frames=frames, consume=True)
    assert tree_bytes(folder) == whole
    left = [path.name for path in (clips / "cfg").rglob("*") if path.is_file()]
    assert sorted(left) == ["2-3.mp4", "cfg_1_processed.json", "cfg_2_processed.json"]
    assert summary.rows_left_out == {"corrupt_media": 2}
    assert summary.frames == {"fps": 2, "max_frames": 3, "size": 512, "quality": 90}
    manifest = Manifest.open(folder)
    geometry = manifest.geometry
    assert geometry.media_frames.max() == 3
    clip_read = MediaStore(manifest.data_root).read(manifest.row(0).media[0])
    assert clip_read.timestamps[0] == 0
    assert len(clip_read.frames) == geometry.media_frames[0]
    assert geometry.media_fps[0] == geometry.media_frames[0] / geometry.media_duration[0]
    # Other settings are another source.
    with pytest.raises(DataError, match="deleted by an earlier prepare --consume"):
        prepare(CLIPS)


def test_a_full_disk_says_how_to_go_on(raw, prepare, png, cauldron_row, write_rows, monkeypatch):
    write_pages(raw, png, cauldron_row, write_rows)

    def full(*_: object) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr("smolvlm2.data.shards.ShardWriter._append", full)
    with pytest.raises(DataError, match=r"disk or a quota is full .*; free some space \(--consume"):
        prepare(PAGES)


def test_a_new_file_leaves_the_parts_of_the_others_alone(
    raw, prepare, png, cauldron_row, write_rows, monkeypatch
):
    write_pages(raw, png, cauldron_row, write_rows)
    folder = raw.parents[1] / "prepared" / "pages"
    map_share(PAGES, raw, folder, (0, 1))
    rows = [cauldron_row([png(99)], ("q", "a"))]
    write_rows(raw / "train-00000-of-00002.parquet", rows)
    plain, mapped = prepare_module.map_input, []

    def counting(place, item, stamp):
        mapped.append(item.name)
        return plain(place, item, stamp)

    monkeypatch.setattr(prepare_module, "map_input", counting)
    prepare(PAGES)
    assert mapped == ["train-00000-of-00002.parquet"]
    assert len(Manifest.open(folder)) == 4
    shards = {Path(m.path).name for n in range(4) for m in Manifest.open(folder).row(n).media}
    assert {path.name for path in (folder / "shards").iterdir()} == shards
