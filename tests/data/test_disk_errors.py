"""Files that cannot be read for a reason outside them: said, and never frozen into a source."""

import errno
import os
import sqlite3
from pathlib import Path

import pytest

from smolvlm2.data import prepare as prepare_module
from smolvlm2.data.disk_errors import explained, is_of_machine
from smolvlm2.data.sources.own_rows import OwnParquet, OwnRows
from smolvlm2.errors import DataError, DataNotFoundError

OWN = OwnRows(source="own", licence="none")
ROW = '{"image": "%d.png", "messages": [{"role": "user", "content": "%d?"}, '
ROW += '{"role": "assistant", "content": "a"}]}\n'


@pytest.fixture
def own(raw, png):
    """Three rows of one's own, each with a picture beside them."""
    (raw / "rows.jsonl").write_text("".join(ROW % (n, n) for n in range(3)))
    for number in range(3):
        (raw / f"{number}.png").write_bytes(png(number))
    return raw


@pytest.mark.parametrize(
    ("error", "whose"),
    [
        (OSError(errno.EACCES, "denied"), True),
        (OSError(errno.EIO, "disk"), True),
        (OSError(errno.EINVAL, "a place that damaged bytes name"), False),
        (OSError("Invalid data stream"), False),
        (ValueError("x"), False),
    ],
)
def test_the_system_numbers_its_errors_and_damaged_data_have_no_number(error, whose):
    assert is_of_machine(error) is whose


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (OSError(errno.ENOSPC, "full"), r"out: the disk or a quota is full .*free some space"),
        (OSError(errno.EDQUOT, "quota"), r"out: the disk or a quota is full"),
        (OSError("80 requested and 7 written"), r"out: the disk or a quota is full"),
        (sqlite3.OperationalError("database or disk is full"), r"out: the disk or a quota is full"),
        (PermissionError(errno.EACCES, "denied", "a.zip"), r"a\.zip: denied; change its rights"),
        (FileNotFoundError(errno.ENOENT, "gone", "a.zip"), r"a\.zip: gone; it was there a moment"),
        (NotADirectoryError(errno.ENOTDIR, "file", "a"), r"a: file; a file is in the place of a"),
        (OSError(errno.EIO, "bad disk", "a.zip"), r"a\.zip: bad disk; check the disk"),
    ],
)
def test_errors_of_the_system_say_what_to_do(error, message):
    with pytest.raises(DataError, match=message), explained(Path("out")):
        raise error


def test_errors_that_are_explained_stay_as_they_are():
    with pytest.raises(DataNotFoundError, match=r"^as it was$"), explained(Path("out")):
        raise DataNotFoundError("as it was")


@pytest.mark.parametrize("name", ["1.png", "rows.jsonl", "cfg.zip", "rows.parquet"])
def test_a_file_without_rights_is_read_once_it_has_them(own, prepare, monkeypatch, name):
    parquet = name == "rows.parquet"
    if parquet or name == "cfg.zip":
        (own / name).write_bytes(b"PK\5\6" + bytes(18))
    adapter = OwnParquet(source="own", licence="none") if parquet else OWN
    plain = open

    def refuse(path, *args, **kwargs):
        if str(path).endswith(name):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return plain(path, *args, **kwargs)

    with monkeypatch.context() as without:
        without.setattr("io.open", refuse)
        without.setattr("pyarrow.parquet.ParquetFile", refuse)
        with pytest.raises(DataError, match=r"ermission denied; change its rights"):
            prepare(adapter)
    _, summary = prepare(adapter)
    assert summary.rows_kept == (0 if parquet else 3)


@pytest.mark.parametrize("change", ["gone", "grown"])
def test_an_input_that_changes_while_it_is_read_makes_no_part(own, prepare, monkeypatch, change):
    plain = prepare_module.map_input

    def changing(place, item, stamp):
        if item.kind == "loose":
            path = own / "1.png"
            path.unlink() if change == "gone" else path.write_bytes(path.read_bytes() + b"more")
        return plain(place, item, stamp)

    with monkeypatch.context() as meanwhile:
        meanwhile.setattr(prepare_module, "map_input", changing)
        expected = "it was there a moment ago" if change == "gone" else "changed while it was read"
        with pytest.raises(DataError, match=rf"1\.png: .*{expected}"):
            prepare(OWN)
    assert prepare(OWN)[1].rows_kept == (2 if change == "gone" else 3)


def test_a_link_to_a_folder_is_the_same_whatever_happens_in_the_folder(own, prepare, monkeypatch):
    (own / "link").symlink_to(own.parents[1])
    _, first = prepare(OWN)
    (own.parents[1] / "other").write_text("new")
    monkeypatch.setattr(prepare_module, "map_input", None)
    assert prepare(OWN)[1] == first
