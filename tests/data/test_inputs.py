"""What a raw folder holds, and whether it is what it was."""

import dataclasses

import pytest

from smolvlm2.data import inputs as module
from smolvlm2.data.inputs import CONSUMED_FILE, InputStamp, consume, list_inputs, read_consumed
from smolvlm2.data.sources.cauldron import ImagesAndTexts
from smolvlm2.data.sources.llava import M4Instruct
from smolvlm2.errors import DataError

M4 = M4Instruct(source="m4", licence="none")
PAGES = ImagesAndTexts(source="pages", licence="none")


def names(inputs):
    """Kind, name and files of each input."""
    return [(item.kind, item.name, [file.file for file in item.files]) for item in inputs]


def test_inputs_are_archives_then_loose_chunks_then_rows(raw, monkeypatch):
    monkeypatch.setattr(module, "LOOSE_CHUNK", 2)
    (raw / "loose").mkdir()
    (raw / ".cache" / "hub").mkdir(parents=True)
    loose = ["loose/b.png", "loose/a.png", "z.mp4"]
    others = ["README.md", "extra.csv", "notes.txt", ".gitattributes", ".cache/hub/x.png",
              "download.json", "m4_instruct_video.json"]  # fmt: skip
    taken = ["m4_instruct_annotations.json", "b.zip", "a.tar.gz", "s.zip", "s.z02", "s.z01"]
    for name in [*loose, *others, *taken]:
        (raw / name).write_text(name)
    assert names(list_inputs(M4, raw)) == [
        ("archive", "a.tar.gz", ["a.tar.gz"]),
        ("archive", "b.zip", ["b.zip"]),
        ("archive", "s.zip", ["s.z01", "s.z02", "s.zip"]),
        ("loose", "loose media 00000", ["loose/a.png", "loose/b.png"]),
        ("loose", "loose media 00001", ["z.mp4"]),
        ("rows", "m4_instruct_annotations.json", ["m4_instruct_annotations.json"]),
    ]


def stamp(inputs):
    """One stamp of everything."""
    return InputStamp(recipe="r", files=tuple(file for item in inputs for file in item.files))


def test_a_stamp_changes_with_names_sizes_and_times(raw):
    (raw / "a-00000.parquet").write_text("one")
    first = stamp(list_inputs(PAGES, raw))
    assert stamp(list_inputs(PAGES, raw)).is_same(first)
    assert not dataclasses.replace(first, recipe="other").is_same(first)
    (raw / "a-00000.parquet").write_text("longer")
    assert not stamp(list_inputs(PAGES, raw)).is_same(first)
    (raw / "a-00000.parquet").unlink()
    (raw / "b-00000.parquet").write_text("one")
    assert not stamp(list_inputs(PAGES, raw)).is_same(first)
    assert InputStamp.from_json(dataclasses.asdict(first)) == first


def test_consumed_files_keep_their_places(raw):
    for name in ("a", "b", "c"):
        (raw / f"{name}.parquet").write_text(name * 5)
    (raw / "x.png").write_text("x")
    before = list_inputs(PAGES, raw)
    assert consume(raw, before[2]) == 5
    assert consume(raw, before[0]) == 1
    after = list_inputs(PAGES, raw)
    assert names(after) == names(before)
    assert stamp(after).is_same(stamp(before))
    assert [item.is_consumed for item in after] == [True, False, True, False]
    assert sorted(path.name for path in raw.iterdir() if not path.name.startswith(".")) == [
        "a.parquet", "c.parquet", CONSUMED_FILE,
    ]  # fmt: skip
    assert [entry["size"] for entry in read_consumed(raw).values()] == [5, 1]


def test_a_file_that_was_fetched_again_is_no_longer_consumed(raw):
    (raw / "a.parquet").write_text("aa")
    consume(raw, list_inputs(PAGES, raw)[0])
    (raw / "a.parquet").write_text("new one")
    (item,) = list_inputs(PAGES, raw)
    assert not item.is_consumed
    assert item.files[0].size == 7


def test_a_damaged_list_of_consumed_files_is_an_error(raw):
    (raw / CONSUMED_FILE).write_text("{}")
    with pytest.raises(DataError, match=r"consumed\.json: not a list of consumed files"):
        read_consumed(raw)


@pytest.mark.parametrize("when", ["record_files", "archives", "read_consumed"])
def test_a_file_that_is_consumed_while_the_folder_is_listed_stays_in_the_list(
    raw, monkeypatch, when
):
    for name in ("a", "b"):
        (raw / f"{name}.parquet").write_text(name)
    before = list_inputs(PAGES, raw)
    owner = module if when == "read_consumed" else ImagesAndTexts
    plain = getattr(owner, when)

    def after_another_run(*args):
        monkeypatch.setattr(owner, when, plain)
        found = plain(*args) if when == "read_consumed" else None
        consume(raw, before[0])
        return plain(*args) if found is None else found

    monkeypatch.setattr(owner, when, after_another_run)
    after = list_inputs(PAGES, raw)
    assert names(after) == names(before)
    assert [item.is_consumed for item in after] == [True, False]
