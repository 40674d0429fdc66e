"""``prepare --consume``: nothing goes that another copy, or another run, might need."""

import json
import os
import shutil
import zipfile

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from smolvlm2.data import prepare as prepare_module
from smolvlm2.data.demo.layouts import CAULDRON_SCHEMA
from smolvlm2.data.inputs import CONSUMED_FILE
from smolvlm2.data.manifest import Manifest
from smolvlm2.data.prepare import PrepareSettings, map_share
from smolvlm2.data.sources.cauldron import ImagesAndTexts
from smolvlm2.data.sources.llava import M4Instruct
from smolvlm2.errors import DataError

PAGES = ImagesAndTexts(source="pages", licence="none")
M4 = M4Instruct(source="m4", licence="none")


def stop(*_: object) -> None:
    raise KeyboardInterrupt


def refuse(*_: object) -> None:
    raise PermissionError(1, os.strerror(1))


@pytest.fixture
def pages(raw, png, cauldron_row, write_rows):
    """Two parquet files of three pages."""
    for number in range(2):
        rows = [cauldron_row([png(10 * number + k)], ("q", "a")) for k in range(3)]
        write_rows(raw / f"train-0000{number}-of-00002.parquet", rows)
    return raw


@pytest.mark.parametrize("begun", [False, True])
def test_a_file_that_another_run_consumed_meanwhile_is_not_lost(
    pages, prepare, monkeypatch, tree_bytes, begun
):
    folder, first = prepare(PAGES)
    whole = tree_bytes(folder, skip=("inputs.json",))
    shutil.rmtree(folder)
    share, parts = (PAGES, pages, folder, (0, 1)), "map_input" if begun else "_map_and_verify"
    plain, others = getattr(prepare_module, parts), []

    def after_another(*arguments):
        if not others:
            others.append(1)
            map_share(*share, PrepareSettings(consume=True))
        return plain(*arguments)

    monkeypatch.setattr(prepare_module, parts, after_another)
    assert prepare(PAGES, consume=True)[1] == first
    assert tree_bytes(folder, skip=("inputs.json",)) == whole
    assert not list(pages.glob("*.parquet"))


def test_a_folder_that_holds_the_only_copy_says_so(pages, prepare):
    out = pages.parent.parent / "prepared" / "pages"
    map_share(PAGES, pages, out, (0, 2), PrepareSettings(consume=True))
    assert len(list(pages.glob("*.parquet"))) == 1
    (note,) = out.parent.rglob("DO_NOT_DELETE.txt")
    assert f"deleted files of {pages}" in note.read_text()
    folder, _ = prepare(PAGES, consume=True)
    assert not list(folder.parent.rglob("DO_NOT_DELETE.txt"))


def test_a_parquet_file_with_a_damaged_row_group_stays(raw, prepare, png, cauldron_row):
    rows = [cauldron_row([png(n)], ("q", "an answer")) for n in range(6)]
    path = raw / "train-00000-of-00001.parquet"
    pq.write_table(pa.Table.from_pylist(rows, CAULDRON_SCHEMA), path, row_group_size=2)
    group = pq.read_metadata(path).row_group(1)
    damaged = bytearray(path.read_bytes())
    for number in range(group.num_columns):
        if "assistant" in group.column(number).path_in_schema:
            start = group.column(number).data_page_offset
            damaged[start : start + 40] = b"\xff" * 40
    path.write_bytes(damaged)
    _, summary = prepare(PAGES, consume=True)
    assert summary.rows_left_out == {"unreadable_record": 2}
    assert path.exists()


def test_an_archive_with_a_damaged_member_stays(raw, prepare, png):
    turns = [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]
    rows = [{"sample_id": n, "image": [f"E/{n}.png"], "conversations": turns} for n in range(2)]
    (raw / "m4_instruct_annotations.json").write_text(json.dumps(rows))
    with zipfile.ZipFile(raw / "E.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for number in range(2):
            archive.writestr(f"E/{number}.png", png(number))
        start = archive.getinfo("E/1.png").header_offset + 100
    damaged = bytearray((raw / "E.zip").read_bytes())
    damaged[start : start + 20] = bytes(20)
    (raw / "E.zip").write_bytes(damaged)
    _, summary = prepare(M4, consume=True)
    assert summary.rows_left_out == {"corrupt_media": 1}
    assert (raw / "E.zip").exists()


@pytest.mark.parametrize("lost", ["ledger.jsonl", "geometry/media_width.npy", "source.json"])
def test_a_source_that_lost_a_file_is_made_again(pages, prepare, tree_bytes, lost):
    folder, first = prepare(PAGES)
    whole = tree_bytes(folder)
    (folder / lost).unlink()
    assert prepare(PAGES)[1] == first
    assert tree_bytes(folder) == whole


def test_a_source_that_lost_a_shard_is_made_again(pages, prepare, tree_bytes):
    folder, first = prepare(PAGES)
    whole = tree_bytes(folder)
    shard = next((folder / "shards").iterdir())
    shard.unlink()
    assert prepare(PAGES)[1] == first
    assert tree_bytes(folder) == whole
    prepare(PAGES)
    for path in pages.glob("*.parquet"):
        path.unlink()
    prepared = folder / "shards" / shard.name
    prepared.write_bytes(prepared.read_bytes()[:-512])
    with pytest.raises(DataError, match="no files with rows"):
        prepare(PAGES)


@pytest.mark.parametrize("content", ["", "{}", '{"stamp": {"recipe": "", "files": []}, "of": 2}'])
def test_an_account_of_another_version_is_made_anew(pages, prepare, content):
    folder = pages.parents[1] / "prepared" / "pages"
    map_share(PAGES, pages, folder, (0, 1))
    for path in (folder.with_name("pages.partial") / "parts").glob("*.json"):
        path.write_text(content)
    assert prepare(PAGES)[1].rows_kept == 6


def test_shards_that_a_killed_run_had_moved_are_not_lost(pages, prepare, monkeypatch, tree_bytes):
    folder, _ = prepare(PAGES)
    whole = tree_bytes(folder, skip=("inputs.json",))
    shutil.rmtree(folder)
    with monkeypatch.context() as patch:
        patch.setattr(os, "link", refuse)
        patch.setattr("smolvlm2.data.finishing.is_finished", stop)
        with pytest.raises(KeyboardInterrupt):
            prepare(PAGES, consume=True)
    assert list(pages.glob("*.parquet")) == []
    prepare(PAGES)
    assert tree_bytes(folder, skip=("inputs.json",)) == whole


def test_a_consumed_source_cannot_be_made_again(pages, prepare, monkeypatch):
    folder, _ = prepare(PAGES, consume=True)
    monkeypatch.setattr(prepare_module, "VERSION", prepare_module.VERSION + 1)
    with pytest.raises(DataError, match=r"train-00000.*deleted by an earlier prepare --consume"):
        prepare(PAGES)
    assert len(Manifest.open(folder)) == 6


def test_a_source_that_was_finished_before_says_that_its_files_stay(pages, prepare, caplog):
    prepare(PAGES)
    prepare(PAGES, consume=True)
    assert "finished before without --consume, so nothing of" in caplog.text
    assert len(list(pages.glob("*.parquet"))) == 2
    caplog.clear()
    shutil.rmtree(prepare(PAGES)[0])
    for _ in range(2):
        prepare(PAGES, consume=True)
    assert not list(pages.glob("*.parquet"))
    assert not caplog.text


def test_a_shard_that_does_not_read_back_keeps_its_raw_file(pages, prepare, monkeypatch):
    plain = prepare_module.map_input

    def on_a_bad_disk(place, item, stamp):
        account = plain(place, item, stamp)
        (shard,) = account.shards
        content = bytearray((place.shards / shard).read_bytes())
        content[600] ^= 255
        (place.shards / shard).write_bytes(content)
        return account

    monkeypatch.setattr(prepare_module, "map_input", on_a_bad_disk)
    with pytest.raises(DataError, match="reads back other bytes than were written"):
        prepare(PAGES, consume=True)
    assert len(list(pages.glob("*.parquet"))) == 2
    assert not (pages / CONSUMED_FILE).exists()
