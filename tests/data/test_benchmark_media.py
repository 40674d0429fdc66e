"""Fingerprints: equal pixels are equal in any file, archive or table."""

import io
import tarfile
import zipfile

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from smolvlm2.data import benchmark_media
from smolvlm2.data.benchmark_media import (
    benchmark_files,
    byte_digest,
    fingerprint,
    fingerprint_file,
    pixel_digest,
)
from smolvlm2.errors import DataError, DataNotFoundError


def encode(image: Image.Image, kind: str, **options) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


@pytest.fixture
def picture() -> Image.Image:
    rng = np.random.default_rng(0)
    return Image.fromarray(rng.integers(0, 256, (20, 30, 3), dtype=np.uint8))


def test_lossless_formats_have_equal_fingerprints(picture):
    first = fingerprint(encode(picture, "png"))
    assert first.size == (30, 20)
    assert first.digest == fingerprint(encode(picture, "bmp")).digest
    assert first.digest != fingerprint(encode(picture, "jpeg")).digest


def test_size_is_part_of_the_fingerprint():
    tall, wide = Image.new("RGB", (10, 40)), Image.new("RGB", (40, 10))
    assert tall.tobytes() == wide.tobytes()
    assert pixel_digest(encode(tall, "png"))[1] != pixel_digest(encode(wide, "png"))[1]


def test_orientation_is_applied_as_in_training(picture):
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = fingerprint(encode(picture, "tiff", exif=exif))
    assert turned.size == (20, 30)
    upright = picture.transpose(Image.Transpose.ROTATE_270)
    assert turned.digest == fingerprint(encode(upright, "png")).digest


def test_what_is_no_image_is_known_by_its_bytes(mp4):
    found = fingerprint(mp4, "clip")
    assert (found.size, found.length, found.digest) == (None, len(mp4), byte_digest(mp4))


@pytest.mark.parametrize("form", ["zip", "tar", "tar.gz", "list", "struct", "nested", "bytes"])
def test_images_are_found_inside_archives_and_tables(tmp_path, picture, form):
    data = encode(picture, "png")
    path = tmp_path / "named_like_nothing"
    value = {"bytes": data, "path": "a.png"}
    if form == "zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("deep/a.png", data)
    elif form.startswith("tar"):
        with tarfile.open(path, "w:gz" if form == "tar.gz" else "w") as archive:
            info = tarfile.TarInfo("deep/a.png")
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    else:
        rows = {
            "list": [[value, value], [], None],
            "struct": [value, {"bytes": None, "path": "b.png"}],
            "nested": [{"page": [value]}],
            "bytes": [data],
        }[form]
        pq.write_table(pa.table({"question": ["why"] * len(rows), "image": rows}), path)
    result = fingerprint_file(path, "set/file")
    assert result.problems == []
    assert {found.digest for found in result.found} == {fingerprint(data).digest}
    assert len(result.found) == (2 if form == "list" else 1)
    place = "deep/a.png" if form in ("zip", "tar", "tar.gz") else "row 0, image"
    assert result.found[0].where == f"set/file: {place}"


def test_a_damaged_member_does_not_hide_its_neighbours(tmp_path, png):
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for number in range(3):
            archive.writestr(f"{number}.png", png(number))
    content = bytearray(path.read_bytes())
    place = content.find(png(1))
    content[place + 60] ^= 0xFF
    path.write_bytes(content)
    result = fingerprint_file(path, "a.zip")
    assert [found.where for found in result.found] == ["a.zip: 0.png", "a.zip: 2.png"]
    assert result.problems == ["a.zip: 1.png: cannot be read (Bad CRC-32 for file '1.png')"]


@pytest.mark.parametrize("left", [512 + 100, 512 + 1024 + 100, 512 + 1024])
def test_an_archive_cut_short_is_told(tmp_path, left):
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w") as archive:
        for number in range(2):
            info = tarfile.TarInfo(f"{number}.png")
            info.size = 1000
            archive.addfile(info, io.BytesIO(bytes(1000)))
    assert fingerprint_file(path, "a.tar").problems == []
    path.write_bytes(path.read_bytes()[:left])
    result = fingerprint_file(path, "a.tar")
    assert len(result.found) == (left > 1000)
    assert "a.tar: cannot be read to its end" in result.problems[0]


def test_a_damaged_table_is_told(tmp_path):
    (tmp_path / "t.parquet").write_bytes(b"PAR1 and no more")
    assert "cannot be read to its end" in fingerprint_file(tmp_path / "t.parquet", "t").problems[0]


def test_large_files_are_hashed_without_being_held(tmp_path, monkeypatch, mp4):
    (tmp_path / "clip").write_bytes(mp4)
    with zipfile.ZipFile(tmp_path / "zip", "w") as archive:
        archive.writestr("clip.mp4", mp4)
    monkeypatch.setattr(benchmark_media, "MOST_IMAGE_BYTES", 100)
    for name in ("clip", "zip"):
        (found,) = fingerprint_file(tmp_path / name, name).found
        assert (found.size, found.digest) == (None, byte_digest(mp4))


def test_hidden_files_are_passed_over(tmp_path, png):
    for name in ("a.png", ".cache/b.png", "sub/.c.png", "sub/d.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(png())
    names = [path.relative_to(tmp_path).as_posix() for path in benchmark_files(tmp_path)]
    assert names == ["a.png", "sub/d.png"]


def test_a_folder_without_files_is_refused(tmp_path):
    with pytest.raises(DataNotFoundError, match="nowhere: no such folder of benchmark images"):
        benchmark_files(tmp_path / "nowhere")
    with pytest.raises(DataError, match="holds no files"):
        benchmark_files(tmp_path)
