"""The demo data: real layouts, disjoint scans, the same bytes every time."""

import json
import sys
import tarfile
import zipfile

import pyarrow.parquet as pq
import pytest

from smolvlm2.data.demo.layouts import CAULDRON_SCHEMA, ONEVISION_SCHEMA
from smolvlm2.data.demo_digits import DemoSettings, write_demo_data
from smolvlm2.errors import ConfigError, DataError, MissingDependencyError

BENCHMARKS = {
    "which_digit", "read_digits", "which_way", "video_digit", "how_many_changes", "which_image",
}  # fmt: skip


@pytest.fixture(scope="module")
def summary(demo_root):
    return json.loads((demo_root / "demo_digits.json").read_text())


def test_no_scan_is_on_both_sides(summary):
    train, held_out = set(summary["train_scans"]), set(summary["held_out_scans"])
    assert not train & held_out
    assert train | held_out == set(range(1797))


def test_the_same_seed_gives_the_same_bytes(demo_root, tmp_path, tiny, tree_bytes):
    write_demo_data(tmp_path, **tiny)
    for part in ("raw", "held_out"):
        assert tree_bytes(tmp_path / part) == tree_bytes(demo_root / part)


def test_another_seed_gives_other_pages(demo_root, tmp_path, tiny, tree_bytes):
    write_demo_data(tmp_path, seed=1, **tiny)
    first, second = tree_bytes(demo_root / "raw"), tree_bytes(tmp_path / "raw")
    assert first.keys() == second.keys()
    assert all(first[name] != second[name] for name in first)


def test_finished_data_are_left_alone(tmp_path, tiny):
    first = write_demo_data(tmp_path, **tiny)
    times = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    assert write_demo_data(tmp_path, **tiny) == first
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == times


def test_half_a_copy_is_replaced(tmp_path, tiny, demo_root, tree_bytes):
    (tmp_path / ".demo_digits.partial" / "raw").mkdir(parents=True)
    (tmp_path / "raw" / "demo__m4_digits").mkdir(parents=True)
    (tmp_path / "raw" / "demo__m4_digits" / "half.zip").write_bytes(b"half")
    (tmp_path / "raw" / "mine.txt").write_text("not the demo's")
    write_demo_data(tmp_path, **tiny)
    found = tree_bytes(tmp_path / "raw")
    assert found.pop("mine.txt") == b"not the demo's"
    assert found == tree_bytes(demo_root / "raw")
    assert not (tmp_path / ".demo_digits.partial").exists()


def test_data_of_other_settings_are_not_overwritten(demo_root, tiny):
    with pytest.raises(DataError, match=r"remove demo_digits.json .* or choose another folder"):
        write_demo_data(demo_root, **tiny | {"text_questions": 11})


def test_a_foreign_folder_is_not_replaced(tmp_path, tiny):
    (tmp_path / "held_out").mkdir()
    (tmp_path / "held_out" / "mine.txt").write_text("mine")
    with pytest.raises(DataError, match="is not the demo's"):
        write_demo_data(tmp_path, **tiny)
    assert (tmp_path / "held_out" / "mine.txt").read_text() == "mine"


def test_the_cauldrons_layout(demo_root, summary):
    folder = demo_root / "raw" / "demo__cauldron_digits"
    rows = 0
    for config in ("digits_one", "digits_page"):
        (path,) = (folder / config).iterdir()
        assert path.name == "train-00000-of-00001.parquet"
        assert pq.read_schema(path).equals(CAULDRON_SCHEMA)
        for row in pq.read_table(path).to_pylist():
            assert len(row["texts"]) == 2
            assert all(pair["user"] and pair["assistant"] for pair in row["texts"])
            rows += 1
    assert rows == summary["train_rows"]["demo__cauldron_digits"] == 22


def test_m4s_layout(demo_root):
    folder = demo_root / "raw" / "demo__m4_digits"
    rows = json.loads((folder / "m4_instruct_annotations.json").read_text())
    assert len(rows) == 9
    kinds = set()
    for row in rows:
        text = row["conversations"][0]["value"]
        assert text.count("<image>") == len(row["image"])
        source = row["image"][0].split("/")[0]
        with zipfile.ZipFile(folder / f"{source}.zip") as archive:
            kinds |= {archive.getinfo(path).compress_type for path in row["image"]}
        assert row["metadata"]["split"] == "train"
        assert row["choice_list"] is None
    assert kinds == {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}


def test_llava_videos_layout(demo_root):
    config = "0_30_s_digits_v0_1"
    folder = demo_root / "raw" / "demo__video_digits" / config
    rows = json.loads((folder / "0_30_s_digits_mc_v0_1_qa_processed.json").read_text())
    with tarfile.open(folder / f"{config}_videos_1.tar.gz") as archive:
        assert archive.getnames() == [row["video"] for row in rows]
    for row in rows:
        assert row["data_source"] == config
        assert row["conversations"][0]["value"].startswith("<image>\n")


def test_onevisions_layout(demo_root):
    path = demo_root / "raw/demo__text_digits/digit_text/train-00000-of-00001.parquet"
    assert pq.read_schema(path).equals(ONEVISION_SCHEMA)
    row = pq.read_table(path).to_pylist()[0]
    assert row["image"] is None
    assert [turn["from"] for turn in row["conversations"]] == ["human", "gpt"] * 3


def test_benchmarks_are_whole(demo_root, summary):
    folder = demo_root / "held_out"
    assert (
        {path.stem for path in folder.glob("*.jsonl")} == BENCHMARKS == set(summary["benchmarks"])
    )
    for name in BENCHMARKS:
        lines = [json.loads(line) for line in (folder / f"{name}.jsonl").read_text().splitlines()]
        assert len(lines) == summary["benchmarks"][name] > 0
        for line in lines:
            parts = [part["type"] for part in line["messages"][0]["content"]]
            assert len(line["media"]) == sum(part != "text" for part in parts)
            assert all((folder / path).is_file() for path in line["media"])
            assert line["answer"] in (line["choices"] or [line["answer"]])
    assert summary["benchmarks"]["which_digit"] == len(summary["held_out_scans"])


@pytest.mark.parametrize("counts", [{"one_digit_pages": 0}, {"tile_size": 33}, {"tile_size": 8}])
def test_settings_out_of_range_are_refused(counts):
    with pytest.raises(ConfigError, match=f"{next(iter(counts))} is"):
        DemoSettings(**counts)


def test_an_unknown_setting_is_named(tmp_path):
    with pytest.raises(ConfigError, match="one_digit_page is no setting"):
        write_demo_data(tmp_path, one_digit_page=3)


def test_a_share_that_empties_a_side_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"held_out_share 1.0 puts"):
        write_demo_data(tmp_path, held_out_share=1.0)


def test_without_scikit_learn_the_pip_command_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(MissingDependencyError, match=r'pip install "smolvlm2\[demo\]"'):
        write_demo_data(tmp_path)


@pytest.mark.parametrize("below", ["", "below"])
def test_a_file_in_the_place_of_the_folder_is_named(tmp_path, tiny, below):
    (tmp_path / "file").write_text("x")
    with pytest.raises(DataError, match=r"file.*; a file is in the place of a folder: name ano"):
        write_demo_data(tmp_path / "file" / below, **tiny)
