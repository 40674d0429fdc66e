"""Training samples that show a benchmark's image are found, and only they."""

import io
import json
import os

import numpy as np
import pytest
from PIL import Image

from smolvlm2.data.contamination import (
    compare_source,
    contaminated_rows,
    read_benchmarks,
    write_contamination,
)
from smolvlm2.data.manifest import CONTAMINATION_FILE, Manifest
from smolvlm2.data.media import MediaStore
from smolvlm2.data.sources.cauldron import ImagesAndTexts
from smolvlm2.errors import DataError

CAULDRON = ImagesAndTexts(source="pages", licence="none")


@pytest.fixture
def pages(raw, prepare, png, cauldron_row, write_rows) -> Manifest:
    """Five rows: pages 0 to 3 alone, then 4 and 1 together; page 3 is larger."""
    images = [[png(0)], [png(1)], [png(2)], [png(3, 64, 48)], [png(4), png(1)]]
    rows = [cauldron_row(each, ("q", f"a{n}")) for n, each in enumerate(images)]
    write_rows(raw / "train-00000-of-00001.parquet", rows)
    return Manifest.open(prepare(CAULDRON)[0])


@pytest.fixture
def benchmarks(tmp_path, png):
    """Write benchmark images: ``benchmarks(name=bytes)`` gives their folder."""
    folder = tmp_path / "bench"
    folder.mkdir()

    def write(**files: bytes):
        for name, data in files.items():
            (folder / name).write_bytes(data)
        return folder

    return write


def as_bmp(data: bytes) -> bytes:
    """The same pixels in another file."""
    file = io.BytesIO()
    Image.open(io.BytesIO(data)).convert("RGB").save(file, "bmp")
    return file.getvalue()


def test_equal_pixels_in_another_file_are_found(pages, benchmarks, png):
    known = read_benchmarks([benchmarks(one=as_bmp(png(1)), other=png(99))])
    found = compare_source(pages, known)
    assert [(match.row, match.medium) for match in found.matches] == [(1, 0), (4, 1)]
    assert found.contaminated == [1, 4]
    assert found.matches[0].benchmark == ["bench/one"]
    assert found.matches[0].sample_id == pages.sample_id(1)


def test_only_images_of_a_benchmarks_size_are_read(pages, benchmarks, png, monkeypatch):
    known = read_benchmarks([benchmarks(large=png(3, 64, 48))])
    read = []
    plain = MediaStore.read
    monkeypatch.setattr(
        MediaStore, "read", lambda self, where: read.append(where) or plain(self, where)
    )
    found = compare_source(pages, known)
    assert (found.images, found.images_compared, len(read)) == (6, 1, 1)
    assert found.contaminated == [3]


def test_one_changed_pixel_is_another_image(pages, benchmarks, png):
    image = Image.open(io.BytesIO(png(0))).convert("RGB")
    image.putpixel((5, 5), (1, 2, 3))
    file = io.BytesIO()
    image.save(file, "png")
    found = compare_source(pages, read_benchmarks([benchmarks(a=file.getvalue())]))
    assert (found.images_compared, found.matches) == (5, [])


def test_worker_processes_find_the_same(pages, benchmarks, png, monkeypatch):
    monkeypatch.setattr("smolvlm2.data.contamination.CHUNK_MEDIA", 2)
    folder = benchmarks(a=png(1), b=png(2))
    alone = compare_source(pages, read_benchmarks([folder]))
    shared = compare_source(pages, read_benchmarks([folder], workers=2), workers=2)
    assert shared == alone
    assert shared.contaminated == [1, 2, 4]


def test_clips_are_compared_by_their_bytes(prepared_root, tmp_path):
    manifest = Manifest.open(prepared_root / "prepared" / "video_digits")
    clip = MediaStore(prepared_root).read(manifest.row(2).media[0])
    (tmp_path / "bench").mkdir()
    (tmp_path / "bench" / "clip").write_bytes(clip)
    (tmp_path / "bench" / "same_length").write_bytes(bytes(len(clip)))
    image = Image.new("RGB", (9, 9))
    image.save(tmp_path / "bench" / "an_image.png")
    found = compare_source(manifest, read_benchmarks([tmp_path / "bench"]))
    assert found.contaminated == [2]
    assert found.matches[0].benchmark == ["bench/clip"]
    assert 1 <= found.clips_compared <= found.clips == len(manifest)


def test_media_that_are_gone_are_counted(pages, benchmarks, png):
    known = read_benchmarks([benchmarks(a=png(1))])
    for shard in (pages.folder / "shards").iterdir():
        shard.unlink()
    found = compare_source(pages, known)
    assert (found.unreadable, found.matches) == (found.images_compared, [])


def test_the_planner_gets_the_rows_back(pages, benchmarks, png):
    assert contaminated_rows(pages.folder, pages.hash).tolist() == []
    known = read_benchmarks([benchmarks(a=png(1))])
    path = write_contamination(pages, known, compare_source(pages, known))
    rows = contaminated_rows(pages.folder, pages.hash)
    assert (rows.dtype, rows.tolist()) == (np.int64, [1, 4])
    assert [entry.name for entry in pages.folder.glob("*.partial")] == []
    value = json.loads(path.read_text())
    assert value["benchmarks"]["hash"] == known.hash
    assert [match["sample_id"] for match in value["matches"]] == [
        pages.sample_id(1),
        pages.sample_id(4),
    ]


def test_nothing_found_is_written_too(pages, benchmarks, png):
    known = read_benchmarks([benchmarks(a=png(77))])
    write_contamination(pages, known, compare_source(pages, known))
    assert contaminated_rows(pages.folder, pages.hash).tolist() == []


def test_rows_of_another_manifest_are_refused(pages, benchmarks, png):
    known = read_benchmarks([benchmarks(a=png(1))])
    write_contamination(pages, known, compare_source(pages, known))
    with pytest.raises(DataError, match=r"was made with manifest .* run smolvlm2 data contaminat"):
        contaminated_rows(pages.folder, "another")
    (pages.folder / CONTAMINATION_FILE).write_text("{}")
    with pytest.raises(DataError, match=r"cannot be read .* remove the file"):
        contaminated_rows(pages.folder, pages.hash)


def test_the_hash_of_a_benchmark_set_depends_on_its_images_alone(tmp_path, png):
    hashes = []
    for number, names in enumerate((("a", "b"), ("z", "y"), ("a",))):
        folder = tmp_path / str(number)
        folder.mkdir()
        for name, page in zip(names, (1, 2), strict=False):
            (folder / name).write_bytes(png(page))
        hashes.append(read_benchmarks([folder]).hash)
    assert hashes[0] == hashes[1] != hashes[2]


def test_a_folder_without_an_image_is_refused(benchmarks):
    with pytest.raises(DataError, match="1 files but no image among them"):
        read_benchmarks([benchmarks(text=b"hello")])


def test_an_empty_source_is_compared(raw, prepare, cauldron_row, write_rows, benchmarks, png):
    write_rows(raw / "train-00000-of-00001.parquet", [cauldron_row([], ("q", ""))])
    manifest = Manifest.open(prepare(CAULDRON)[0])
    found = compare_source(manifest, read_benchmarks([benchmarks(a=png(1))]))
    assert (found.rows, found.images, found.matches) == (0, 0, [])


def test_a_comparison_is_not_forgotten_when_its_source_is_prepared_again(
    pages, raw, prepare, benchmarks, png, cauldron_row, write_rows
):
    known = read_benchmarks([benchmarks(one=png(1))])
    write_contamination(pages, known, compare_source(pages, known))
    path = raw / "train-00000-of-00001.parquet"
    os.utime(path, (1, 1))
    same = Manifest.open(prepare(CAULDRON)[0])
    assert contaminated_rows(same.folder, same.hash).tolist() == [1, 4]
    write_rows(path, [cauldron_row([png(1)], ("q", "a"))])
    other = Manifest.open(prepare(CAULDRON)[0])
    with pytest.raises(DataError, match="its rows are others; run smolvlm2 data contamination"):
        contaminated_rows(other.folder, other.hash)
