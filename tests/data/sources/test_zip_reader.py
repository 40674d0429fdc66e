"""The zip reader: what Python's own writes and `zip -s` splits, and everything that lies."""

import shutil
import struct
import subprocess
import zipfile
import zlib
from contextlib import closing

import numpy as np
import pytest

from smolvlm2.data.sources import zip_reader
from smolvlm2.data.sources.zip_reader import ZipError, ZipReader, is_zip, split_parts

MEMBERS = {
    "a.bin": b"first" * 100,
    "folder/två.bin": np.random.default_rng(0).bytes(5000),
    "empty.bin": b"",
    "c.bin": b"last" * 1000,
}


def read(path):
    """Bytes by name."""
    with closing(ZipReader(path)) as archive:
        return {e.name: b"".join(archive.pieces(e)) for e in archive.entries() if not e.is_folder}


def write(path, members=MEMBERS, method=zipfile.ZIP_STORED, **options):
    with zipfile.ZipFile(path, "w", method) as archive:
        archive.mkdir("folder")
        for name, data in members.items():
            with archive.open(name, "w", **options) as file:
                file.write(data)


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
@pytest.mark.parametrize("zip64", [False, True])
def test_members_are_read_back(tmp_path, method, zip64):
    write(tmp_path / "x.zip", method=method, force_zip64=zip64)
    assert read(tmp_path / "x.zip") == MEMBERS


def test_stored_bytes_lie_where_the_reader_says(tmp_path):
    path = tmp_path / "x.zip"
    write(path)
    # A program in front, as in archives that unpack themselves.
    path.write_bytes(b"#!/bin/sh\n" + path.read_bytes())
    whole = path.read_bytes()
    with closing(ZipReader(path)) as archive:
        for entry in archive.entries():
            start = archive.data_start(entry)
            assert whole[start : start + entry.size] == MEMBERS.get(entry.name, b"")


def test_a_directory_beyond_65535_members_is_read(tmp_path):
    path = tmp_path / "x.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for number in range(65_540):
            archive.writestr(f"{number}", b"")
    with closing(ZipReader(path)) as archive:
        assert sum(1 for _ in archive.entries()) == 65_540


@pytest.mark.parametrize("method", [0, 8])
@pytest.mark.parametrize("part_size", [512, 2000, 4000])
def test_a_split_zip_is_read_across_its_parts(tmp_path, write_split_zip, method, part_size):
    parts = write_split_zip(tmp_path / "x.zip", MEMBERS, part_size, method)
    assert len(parts) > 1
    assert split_parts(tmp_path / "x.zip") == parts
    assert read(tmp_path / "x.zip") == MEMBERS


@pytest.mark.skipif(shutil.which("zip") is None, reason="the zip program is not installed")
def test_what_the_zip_program_splits_is_read(tmp_path):
    noise = np.random.default_rng(1)
    members = {f"{number}.bin": noise.bytes(30_000) for number in range(9)}
    for name, data in members.items():
        (tmp_path / name).write_bytes(data)
    command = ["zip", "-q", "-s", "64k", "x.zip", *members]
    subprocess.run(command, cwd=tmp_path, check=True)
    assert len(split_parts(tmp_path / "x.zip")) == 5
    assert read(tmp_path / "x.zip") == members


@pytest.mark.parametrize("gone", ["x.z01", "x.z03", "x.zip"])
def test_a_missing_part_is_named(tmp_path, write_split_zip, gone):
    write_split_zip(tmp_path / "x.zip", MEMBERS, 1500)
    (tmp_path / gone).unlink()
    with pytest.raises(ZipError, match=rf"part {gone} of \d+ is missing"):
        read(tmp_path / "x.zip")


def test_a_zip_that_is_not_there_is_named(tmp_path):
    with pytest.raises(ZipError, match=r"x\.zip is missing"):
        split_parts(tmp_path / "x.zip")


def patched(path, old, new, count=1):
    data = path.read_bytes()
    assert data.count(old) >= count
    path.write_bytes(data.replace(old, new))


def entry_error(path):
    """The error of reading the only member."""
    with closing(ZipReader(path)) as archive:
        (entry,) = archive.entries()
        with pytest.raises(ZipError) as caught:
            for _ in archive.pieces(entry):
                pass
    return str(caught.value)


def test_a_wrong_checksum_is_noticed(tmp_path):
    write_one(tmp_path / "x.zip", b"12345")
    patched(tmp_path / "x.zip", b"12345", b"12344")
    assert "damaged: 5 of 5 bytes, or a wrong checksum" in entry_error(tmp_path / "x.zip")


def write_one(path, data, method=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", method) as archive:
        archive.writestr("m", data)


@pytest.mark.parametrize("promise", [10, 70_000])
def test_a_member_never_gives_more_than_it_promises(tmp_path, promise):
    data = bytes(3 << 20)
    write_one(tmp_path / "x.zip", data, zipfile.ZIP_DEFLATED)
    patched(tmp_path / "x.zip", struct.pack("<L", len(data)), struct.pack("<L", promise), 2)
    assert f"more than the {promise} bytes" in entry_error(tmp_path / "x.zip")


def test_a_member_comes_in_pieces(tmp_path, monkeypatch):
    monkeypatch.setattr(zip_reader, "PIECE", 1000)
    write_one(tmp_path / "x.zip", bytes(100_000), zipfile.ZIP_DEFLATED)
    with closing(ZipReader(tmp_path / "x.zip")) as archive:
        (entry,) = archive.entries()
        pieces = list(archive.pieces(entry))
    assert b"".join(pieces) == bytes(100_000)
    assert max(map(len, pieces)) <= 1000


def test_damaged_packing_is_noticed(tmp_path):
    data = np.random.default_rng(0).bytes(1000).hex().encode()
    write_one(tmp_path / "x.zip", data, zipfile.ZIP_DEFLATED)
    squeeze = zlib.compressobj(-1, zlib.DEFLATED, -15)
    packed = squeeze.compress(data) + squeeze.flush()
    patched(tmp_path / "x.zip", packed[20:60], b"\xff" * 40)
    assert "damaged" in entry_error(tmp_path / "x.zip")


def test_other_packing_and_passwords_are_refused(tmp_path):
    write_one(tmp_path / "x.zip", b"data" * 100, zipfile.ZIP_BZIP2)
    assert "packed by method 12" in entry_error(tmp_path / "x.zip")
    write_one(tmp_path / "y.zip", b"data")
    data = bytearray((tmp_path / "y.zip").read_bytes())
    data[data.index(b"PK\1\2") + 8] |= 1
    (tmp_path / "y.zip").write_bytes(data)
    assert "encrypted" in entry_error(tmp_path / "y.zip")


def test_a_member_that_is_not_where_the_directory_says_is_an_error(tmp_path):
    write_one(tmp_path / "x.zip", b"data")
    patched(tmp_path / "x.zip", b"PK\3\4", b"PK\3\5")
    assert "no member where the directory says" in entry_error(tmp_path / "x.zip")


def test_a_damaged_directory_names_the_entry(tmp_path):
    write(tmp_path / "x.zip")
    data = bytearray((tmp_path / "x.zip").read_bytes())
    data[data.rindex(b"PK\1\2")] = 0
    (tmp_path / "x.zip").write_bytes(data)
    with pytest.raises(ZipError, match="damaged at entry 4 of 5"):
        read(tmp_path / "x.zip")


def test_a_zip_that_is_cut_off_has_no_directory(tmp_path):
    write(tmp_path / "x.zip")
    assert is_zip(tmp_path / "x.zip")
    (tmp_path / "x.zip").write_bytes((tmp_path / "x.zip").read_bytes()[:-30])
    assert not is_zip(tmp_path / "x.zip")
    with pytest.raises(ZipError, match="no directory at the end"):
        read(tmp_path / "x.zip")
