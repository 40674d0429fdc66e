"""The map of files of rows: several samples a row, odd rows, odd files."""

import io
import json
import os
import tarfile
from dataclasses import dataclass
from typing import ClassVar

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from smolvlm2.data.kept_frames import FrameSettings
from smolvlm2.data.ledger import LeftOutError
from smolvlm2.data.manifest import Manifest
from smolvlm2.data.media import MediaStore
from smolvlm2.data.sources.cauldron import ImagesAndTexts
from smolvlm2.data.sources.own_rows import OwnRows
from smolvlm2.data.sources.record import RawMedium, Record
from smolvlm2.errors import DataError

PAGES = ImagesAndTexts(source="pages", licence="none")
TURNS = [("user", "q"), ("assistant", "a")]


@dataclass(frozen=True, kw_only=True)
class Scripted:
    """A row of ``{"do": [...]}`` says what comes of it."""

    data: bytes = b""
    source: str = "scripted"
    licence: str = "none"
    reader: ClassVar = "json"
    columns: ClassVar = ()
    optional_columns: ClassVar = ()
    placeholders: ClassVar = ()

    def record_files(self, raw):
        return sorted(raw.glob("*.json*"))

    def archives(self, raw):
        return []

    def records(self, row, file):
        data = bytes(self.data)
        for number, step in enumerate(row["do"]):
            if step == "sample":
                yield Record(native_id=None, turns=[("user", f"{row} {number}"), TURNS[1]])
            elif step == "shown":
                media = [RawMedium(kind="image", data=data)]
                turns = [("user", f"{number}"), TURNS[1]]
                yield Record(native_id=f"{number}", turns=turns, media=media)
            elif step == "late":
                medium = RawMedium(kind="video", data=data, min_duration=9.0)
                yield Record(native_id="late", turns=TURNS, media=[medium])
            elif step == "refused":
                yield LeftOutError("no_caption", "nothing to say")
            elif step == "raise":
                raise LeftOutError("incomplete_record", "no more")
            else:
                raise KeyError(step)


def scripted(raw, prepare, *rows, **options):
    (raw / "rows.json").write_text(json.dumps([{"do": list(row)} for row in rows]))
    return prepare(Scripted(**options))


def test_each_sample_and_each_refusal_of_a_row_counts_as_one(raw, prepare, read_ledger):
    folder, summary = scripted(
        raw, prepare, ["sample", "refused", "sample"], ["raise"], ["sample", "raise"], [], ["odd"]
    )
    assert (summary.rows_read, summary.rows_kept) == (8, 3)
    lines = [(line["row"], line["reason"], line["sample_id"]) for line in read_ledger(folder)]
    assert lines == [
        (0, "no_caption", "scripted/rows:0"),
        (1, "incomplete_record", "scripted/rows:1"),
        (2, "incomplete_record", "scripted/rows:2"),
        (3, "incomplete_record", "scripted/rows:3"),
        (4, "unreadable_record", "scripted/rows:4"),
    ]
    assert "unexpected shape (KeyError: 'odd')" in read_ledger(folder)[-1]["detail"]
    manifest = Manifest.open(folder)
    assert [manifest.sample_id(n) for n in range(3)] == [
        "scripted/rows:0", "scripted/rows:0~2", "scripted/rows:2",
    ]  # fmt: skip


def test_samples_of_a_row_share_the_file_that_they_show(raw, prepare, png):
    folder, _ = scripted(raw, prepare, ["shown", "shown"], ["shown", "shown"], data=png(1))
    manifest = Manifest.open(folder)
    assert len(manifest) == 2  # the second row repeats the first
    assert manifest.row(0).media == manifest.row(1).media
    assert MediaStore(manifest.data_root).read(manifest.row(1).media[0]) == png(1)
    (shard,) = (folder / "shards").iterdir()
    with tarfile.open(shard) as archive:
        assert archive.getnames() == ["00000000-0.png", "00000001-0.png"]


def test_an_embedded_clip_that_is_too_short_is_incomplete(raw, prepare, mp4, reasons, read_ledger):
    folder, _ = scripted(raw, prepare, ["late"], data=mp4)
    assert reasons(read_ledger(folder)) == [(0, "incomplete_record")]


def test_a_parquet_file_with_other_columns_is_unreadable_by_row(
    raw, prepare, png, cauldron_row, write_rows, read_ledger
):
    write_rows(raw / "good" / "train-00000-of-00001.parquet", [cauldron_row([png(1)], ("q", "a"))])
    (raw / "odd").mkdir()
    pq.write_table(pa.table({"images": [1, 2]}), raw / "odd" / "train-00000-of-00001.parquet")
    folder, summary = prepare(PAGES)
    assert (summary.rows_read, summary.rows_kept) == (3, 1)
    lines = read_ledger(folder)
    assert [(line["row"], line["reason"]) for line in lines] == [
        (0, "unreadable_record"), (1, "unreadable_record"),
    ]  # fmt: skip
    assert "column 'texts' is missing, found ['images']" in lines[0]["detail"]


def test_a_folder_of_another_data_set_is_refused(raw, prepare):
    pq.write_table(pa.table({"a": [1]}), raw / "train-00000-of-00001.parquet")
    with pytest.raises(DataError, match=r"column 'images' is missing.*holds the right one"):
        prepare(PAGES)


def test_large_and_small_rows_of_one_file_are_read(raw, prepare, cauldron_row, write_rows, png):
    rows = [cauldron_row([png(n, 600, 500)] * (1 + n % 3), (f"q{n}", "a")) for n in range(30)]
    write_rows(raw / "train-00000-of-00001.parquet", rows)
    folder, summary = prepare(PAGES)
    assert summary.media_kept == 60
    manifest = Manifest.open(folder)
    store = MediaStore(manifest.data_root)
    assert store.read(manifest.row(29).media[-1]) == png(29, 600, 500)


def test_clips_in_rows_become_frames(raw, prepare, clip):
    (raw / "rows.json").write_text(json.dumps([{"do": ["clip"]}]))

    @dataclass(frozen=True, kw_only=True)
    class Clips(Scripted):
        def records(self, row, file):
            medium = RawMedium(kind="video", data=self.data)
            yield Record(native_id="c", turns=TURNS, media=[medium])

    folder, _ = prepare(Clips(data=clip(40)), frames=FrameSettings(max_frames=4))
    manifest = Manifest.open(folder)
    frames = MediaStore(manifest.data_root).read(manifest.row(0).media[0])
    assert len(frames.frames) == manifest.geometry.media_frames[0] == 4
    assert frames.duration == pytest.approx(5)
    assert io.BytesIO(frames.frames[0]).read(2) == b"\xff\xd8"


def test_a_file_whose_name_is_no_text_is_read(raw, prepare):
    row = {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]}
    path = os.fsencode(raw) + b"/rows\xff.jsonl"
    try:
        with open(path, "w") as file:
            json.dump(row, file)
    except OSError:
        pytest.skip("a file system that wants text")
    folder, summary = prepare(OwnRows(source="own", licence="none"))
    assert (summary.rows_kept, summary.subsets) == (1, ["rows?"])
    assert Manifest.open(folder).sample_id(0) == "own/rows?:0"
