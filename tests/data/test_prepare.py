"""Prepare: results repeat, interrupted work goes on, finished work is left alone."""

import dataclasses
import json
from pathlib import Path

import pytest

from smolvlm2.data import prepare as prepare_module
from smolvlm2.data.manifest import Manifest
from smolvlm2.data.media import MediaStore
from smolvlm2.data.prepare import PrepareSettings, prepare_source
from smolvlm2.data.sources.catalogue import DEMO_SOURCES, SOURCES
from smolvlm2.data.sources.cauldron import ImagesAndTexts
from smolvlm2.data.workplace import part_name
from smolvlm2.errors import DataError, DataNotFoundError
from smolvlm2.processing.tokenizer import Tokenizer

CAULDRON = ImagesAndTexts(source="pages", licence="none")


def test_all_demo_rows_are_prepared(prepared_root):
    for name in DEMO_SOURCES:
        manifest = Manifest.open(prepared_root / "prepared" / name)
        assert len(manifest) > 0
        facts = json.loads((manifest.folder / "source.json").read_text())
        assert facts["rows_read"] == facts["rows_kept"] + sum(facts["rows_left_out"].values())
        assert set(facts["rows_left_out"]) <= {"duplicate"}
        assert not (manifest.folder / "parts").exists()


def test_the_result_does_not_depend_on_the_order_of_the_map(
    demo_root, tokenizer, tmp_path, monkeypatch, tree_bytes
):
    raw = tmp_path / "data" / "raw" / "set"
    raw.parent.mkdir(parents=True)
    demo = demo_root / "raw" / "demo__cauldron_digits"
    for file in demo.rglob("*.parquet"):
        # Half of the second copy's rows are duplicates of the first: order must not decide.
        for copy in ("a", "b"):
            target = raw / copy / file.name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(file.read_bytes())
    out = tmp_path / "data" / "prepared" / "pages"
    prepare_source(CAULDRON, raw, out, tokenizer)
    forward = tree_bytes(out)
    plain_run = prepare_module.run_tasks

    def backward(function, tasks, workers, what, report, done=None):
        return plain_run(function, tasks[::-1], workers, what, report)[::-1]

    monkeypatch.setattr(prepare_module, "run_tasks", backward)
    out.rename(out.with_name("first"))
    prepare_source(CAULDRON, raw, out, tokenizer)
    assert tree_bytes(out) == forward


def test_worker_processes_give_the_same_bytes(
    demo_root, prepared_root, tokenizer, tmp_path, tree_bytes
):
    name = "m4_digits"
    out = tmp_path / "data" / "prepared" / name
    raw = tmp_path / "data" / "raw" / SOURCES[name].raw_folder
    raw.parent.mkdir(parents=True)
    raw.symlink_to(demo_root / "raw" / SOURCES[name].raw_folder)
    prepare_source(SOURCES[name].adapter, raw, out, tokenizer, PrepareSettings(workers=2))
    assert tree_bytes(out) == tree_bytes(prepared_root / "prepared" / name)


def test_a_finished_source_is_left_alone(raw, prepare, png, monkeypatch, cauldron_row, write_rows):
    write_rows(raw / "train-00000-of-00001.parquet", [cauldron_row([png(1)], ("q", "a"))])
    folder, first = prepare(CAULDRON)
    times = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    monkeypatch.setattr(prepare_module, "map_input", None)
    assert prepare(CAULDRON)[1] == first
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == times


def test_changed_inputs_are_prepared_again(raw, prepare, png, cauldron_row, write_rows):
    file = raw / "train-00000-of-00001.parquet"
    write_rows(file, [cauldron_row([png(1)], ("q", "a"))])
    _, first = prepare(CAULDRON)
    write_rows(file, [cauldron_row([png(1)], ("q", "b"))])
    folder, second = prepare(CAULDRON)
    assert first.hash != second.hash
    assert Manifest.open(folder).row(0).messages[1]["content"][0]["text"] == "b"
    assert [path.name for path in folder.parent.iterdir()] == [CAULDRON.source]


def test_another_tokenizer_only_adds_its_columns(
    raw, prepare, png, tokenizer, tmp_path, cauldron_row, write_rows
):
    write_rows(raw / "train-00000-of-00001.parquet", [cauldron_row([png(1)], ("q", "a"))])
    folder, first = prepare(CAULDRON)
    other = another_tokenizer(tokenizer, tmp_path)
    assert other.key != tokenizer.key
    with pytest.raises(DataNotFoundError, match="smolvlm2 prepare pages"):
        Manifest.open(folder, other.key)
    again = prepare_source(CAULDRON, raw, folder, other)
    assert again == first
    assert Manifest.open(folder, other.key).geometry.message_text_tokens is not None
    assert Manifest.open(folder, tokenizer.key).geometry.message_text_tokens is not None


def another_tokenizer(tokenizer: Tokenizer, folder: Path) -> Tokenizer:
    """The same tokenizer with one merge less."""
    tokenizer.save_pretrained(folder)
    path = folder / "tokenizer.json"
    definition = json.loads(path.read_text())
    definition["model"]["merges"].pop()
    path.write_text(json.dumps(definition))
    return Tokenizer.from_pretrained(folder)


def test_interrupted_work_goes_on_where_it_stopped(
    raw, prepare, png, monkeypatch, tree_bytes, cauldron_row, write_rows
):
    for n in range(3):
        rows = [cauldron_row([png(10 * n + k)], ("q", "a")) for k in range(3)]
        write_rows(raw / f"train-0000{n}-of-00003.parquet", rows)
    folder, _ = prepare(CAULDRON)
    whole = tree_bytes(folder)
    folder.rename(folder.with_name("whole"))
    mapped, plain_map = [], prepare_module.map_input

    def stopping_map(place, item, stamp):
        if len(mapped) == 2:
            # Half a shard is on disk when the power fails.
            (place.shards / f"{part_name(item.name)}-00000.tar").write_bytes(b"half")
            raise KeyboardInterrupt
        mapped.append(item.name)
        return plain_map(place, item, stamp)

    monkeypatch.setattr(prepare_module, "map_input", stopping_map)
    with pytest.raises(KeyboardInterrupt):
        prepare(CAULDRON)
    assert not folder.exists()

    def counting_map(place, item, stamp):
        mapped.append(item.name)
        return plain_map(place, item, stamp)

    monkeypatch.setattr(prepare_module, "map_input", counting_map)
    prepare(CAULDRON)
    assert len(mapped) == len(set(mapped)) == 3
    assert tree_bytes(folder) == whole


def test_progress_is_told_of_every_file(raw, prepare, png, cauldron_row, write_rows):
    write_rows(raw / "train-00000-of-00001.parquet", [cauldron_row([png(1)], ("q", "a"))])
    told = []
    prepare(CAULDRON, progress=lambda *what: told.append(what))
    assert told == [("inputs", 1, 1), ("tokens", 1, 1)]


def test_missing_raw_data_name_the_command(tmp_path, tokenizer):
    with pytest.raises(DataNotFoundError, match="smolvlm2 prepare pages"):
        prepare_source(CAULDRON, tmp_path / "raw" / "x", tmp_path / "prepared" / "x", tokenizer)


def test_a_raw_folder_without_rows_is_no_data_set(raw, prepare):
    (raw / "README.md").write_text("hello")
    with pytest.raises(DataError, match=r"no files with rows of pages, found \['README.md'\]"):
        prepare(CAULDRON)


def test_raw_data_outside_the_data_root_are_refused(tmp_path, tokenizer, png, write_rows):
    write_rows(tmp_path / "elsewhere" / "train-00000-of-00001.parquet", [])
    out = tmp_path / "data" / "prepared" / "pages"
    with pytest.raises(DataError, match="outside the data root"):
        prepare_source(CAULDRON, tmp_path / "elsewhere", out, tokenizer)


def test_a_source_without_a_usable_row_is_empty_but_whole(raw, prepare, cauldron_row, write_rows):
    write_rows(raw / "train-00000-of-00001.parquet", [cauldron_row([], ("q", ""))])
    folder, summary = prepare(CAULDRON)
    assert summary.rows_kept == 0
    assert len(Manifest.open(folder)) == 0


@pytest.mark.parametrize("name", sorted(DEMO_SOURCES))
def test_held_out_layouts_can_be_prepared_too(demo_root, tokenizer, name):
    adapter = dataclasses.replace(SOURCES[name].adapter, source=f"{name}_held_out")
    raw = demo_root / "held_out" / "raw" / SOURCES[name].raw_folder
    out = demo_root / "prepared_held_out" / adapter.source
    summary = prepare_source(adapter, raw, out, tokenizer)
    manifest = Manifest.open(out, tokenizer.key)
    assert summary.rows_kept == len(manifest) > 0
    for locator in manifest.row(0).media:
        assert MediaStore(manifest.data_root).read(locator)


def test_a_question_reads_the_same_in_training_and_in_its_benchmark(demo_root, tokenizer):
    source = SOURCES["m4_digits"]
    adapter = dataclasses.replace(source.adapter, source="asked")
    raw = demo_root / "held_out" / "raw" / source.raw_folder
    out = demo_root / "prepared_held_out" / "asked"
    prepare_source(adapter, raw, out, tokenizer)
    manifest = Manifest.open(out)
    table = (demo_root / "held_out" / "which_image.jsonl").read_text().splitlines()
    asked = [json.loads(line)["messages"] for line in table]
    assert [manifest.row(i).messages[:1] for i in range(len(manifest))] == asked
