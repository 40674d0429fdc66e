"""Parquet rows, and files that are one row each."""

import json
import zipfile

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from smolvlm2.data.ledger import LeftOutError
from smolvlm2.data.sources import rows as module
from smolvlm2.data.sources.json_rows import UnreadableFileError
from smolvlm2.data.sources.rows import OtherColumnsError, json_file_rows, parquet_rows


def short(rows):
    """Number, and the row or its reason."""
    return [(n, row.reason if isinstance(row, LeftOutError) else row) for n, row in rows]


def test_parquet_rows_keep_their_numbers_over_row_groups(tmp_path):
    path = tmp_path / "rows.parquet"
    pq.write_table(pa.table({"a": list(range(200)), "b": ["x"] * 200}), path, row_group_size=70)
    assert short(parquet_rows(path, ("a",))) == [(n, {"a": n}) for n in range(200)]


def test_a_parquet_row_that_is_not_utf8_is_left_out_alone(tmp_path):
    path = tmp_path / "rows.parquet"
    column = pa.array([b"fine", b"b\xffd", b"good"]).view(pa.string())
    pq.write_table(pa.table({"a": column}), path)
    rows = short(parquet_rows(path, ("a",)))
    assert rows == [(0, {"a": "fine"}), (1, "unreadable_record"), (2, {"a": "good"})]


def test_a_value_that_python_cannot_hold_leaves_its_neighbours_alone(tmp_path):
    path = tmp_path / "rows.parquet"
    pq.write_table(pa.table({"a": pa.array([0, 2**62], pa.timestamp("us"))}), path)
    assert [number for number, _ in parquet_rows(path, ("a",))] == [0, 1]
    assert short(parquet_rows(path, ("a",)))[1] == (1, "unreadable_record")


def test_a_damaged_row_group_does_not_hide_the_others(tmp_path):
    path = tmp_path / "rows.parquet"
    table = pa.table({"a": [f"value {n} " * 20 for n in range(30)]})
    pq.write_table(table, path, row_group_size=10, compression="zstd", use_dictionary=False)
    start = pq.read_metadata(path).row_group(1).column(0).data_page_offset
    damaged = bytearray(path.read_bytes())
    damaged[start : start + 40] = bytes(40)
    path.write_bytes(damaged)
    rows = short(parquet_rows(path, ("a",)))
    assert [n for n, _ in rows] == list(range(30))
    assert [n for n, row in rows if row == "unreadable_record"] == list(range(10, 20))


def test_a_file_that_is_no_parquet_is_unreadable(tmp_path):
    path = tmp_path / "rows.parquet"
    path.write_bytes(b"PAR1 not really")
    with pytest.raises(UnreadableFileError):
        list(parquet_rows(path, ("a",)))


def test_a_missing_column_is_an_error_of_the_layout(tmp_path):
    path = tmp_path / "rows.parquet"
    pq.write_table(pa.table({"a": [1]}), path)
    with pytest.raises(OtherColumnsError, match="column 'texts' is missing, found \\['a'\\]"):
        list(parquet_rows(path, ("texts",)))


def test_optional_columns_are_read_where_they_are(tmp_path):
    path = tmp_path / "rows.parquet"
    pq.write_table(pa.table({"a": [1], "b": [2]}), path)
    assert short(parquet_rows(path, ("a",), ("b", "c"))) == [(0, {"a": 1, "b": 2})]


def test_few_large_rows_are_decoded_at_a_time(tmp_path, monkeypatch):
    path = tmp_path / "rows.parquet"
    pq.write_table(pa.table({"a": [bytes([n]) * 1000 for n in range(50)]}), path)
    monkeypatch.setattr(module, "BATCH_BYTES", 5000)
    sizes = []
    plain = module._batch_rows
    monkeypatch.setattr(module, "_batch_rows", lambda b: sizes.append(b.num_rows) or plain(b))
    assert len(short(parquet_rows(path, ("a",)))) == 50
    assert max(sizes) < 10


def outcome(path):
    """Name, and the row or its reason, in order."""
    return [
        (name, row.reason if isinstance(row, LeftOutError) else row)
        for _, name, row in json_file_rows(path)
    ]


FILES = {
    "b.json": b'{"n": 2}',
    "a.json": b'\xef\xbb\xbf{"n": 1}',
    "bad.json": b"{",
    "x.txt": b"hello",
}
EXPECTED = [("a.json", {"n": 1}), ("b.json", {"n": 2}), ("bad.json", "unreadable_record")]


def test_a_folder_of_json_files_is_read_by_name(tmp_path):
    for name, data in FILES.items():
        (tmp_path / name).write_bytes(data)
    (tmp_path / ".hidden.json").write_bytes(b"{}")
    (tmp_path / "link.json").symlink_to(tmp_path / "a.json")
    assert outcome(tmp_path) == [*EXPECTED, ("link.json", "unsafe_path")]


def test_a_zip_of_json_files_is_read_by_name(tmp_path):
    path = tmp_path / "captions.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in {**FILES, "../up.json": b"{}", "__MACOSX/a.json": b"{}"}.items():
            archive.writestr(name, data)
    assert outcome(path) == [("../up.json", "unsafe_path"), *EXPECTED]


def test_a_damaged_member_of_a_zip_is_one_unreadable_row(tmp_path, monkeypatch):
    path = tmp_path / "captions.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.json", b'{"n": 12345}')
        archive.writestr("b.json", b'{"n": 2}')
        archive.writestr("c.json", b'{"n": 2}' + b" " * 100)
    path.write_bytes(path.read_bytes().replace(b"12345", b"12344"))
    monkeypatch.setattr(module, "MAX_ROW_BYTES", 100)
    bad = "unreadable_record"
    assert outcome(path) == [("a.json", bad), ("b.json", {"n": 2}), ("c.json", bad)]


def test_a_zip_whose_directory_is_damaged_is_unreadable(tmp_path):
    path = tmp_path / "captions.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.json", b"{}")
    path.write_bytes(path.read_bytes().replace(b"PK\1\2", b"PK\0\0"))
    with pytest.raises(UnreadableFileError, match="directory is damaged"):
        outcome(path)


def test_lines_stand_in_for_a_zip_of_files(tmp_path):
    path = tmp_path / "captions.jsonl"
    path.write_text(json.dumps({"n": 1}) + "\n")
    assert outcome(path) == [(None, {"n": 1})]
