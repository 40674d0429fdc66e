"""Readers: rows come one at a time, and a bad one does not hide its neighbours."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from smolvlm2.data.ledger import LeftOutError
from smolvlm2.data.sources.json_rows import UnreadableFileError, json_rows
from smolvlm2.data.sources.rows import parquet_rows
from smolvlm2.errors import DataError


def short(rows):
    """Number, and the row or its reason."""
    return [(n, row.reason if isinstance(row, LeftOutError) else row) for n, row in rows]


@pytest.mark.parametrize("indent", [None, 2])
def test_a_json_list_is_read_row_by_row(tmp_path, indent):
    rows = [{"a": 'br{ack"et]s \\'}, {"b": {"c": [1, {"d": "]"}]}}, {}]
    path = tmp_path / "rows.json"
    path.write_text(json.dumps(rows, indent=indent))
    assert short(json_rows(path)) == list(enumerate(rows))


def test_json_lines_are_read_too(tmp_path):
    path = tmp_path / "rows.json"
    path.write_text('{"a": 1}\n\nnonsense\n{"a": 2}\n')
    assert short(json_rows(path)) == [(0, {"a": 1}), (1, "unreadable_record"), (2, {"a": 2})]


def test_bad_json_rows_do_not_hide_their_neighbours(tmp_path):
    path = tmp_path / "rows.json"
    path.write_bytes(b'[\n{"a": 1},\n{"a": \xff},\n{"a" 1},\n"text",\n{"a: 1},\n{"a": 2}\n]')
    bad = "unreadable_record"
    assert short(json_rows(path)) == [
        (0, {"a": 1}), (1, bad), (2, bad), (3, bad), (4, bad), (5, {"a": 2}),
    ]  # fmt: skip


def test_a_list_that_is_cut_off_ends_in_one_unreadable_row(tmp_path):
    path = tmp_path / "rows.json"
    path.write_text('[{"a": 1}, {"a": 2')
    assert short(json_rows(path)) == [(0, {"a": 1}), (1, "unreadable_record")]


def test_an_empty_list_has_no_rows(tmp_path):
    path = tmp_path / "rows.json"
    path.write_text(" [ ] ")
    assert short(json_rows(path)) == []


@pytest.mark.parametrize("text", ["", "hello", "  "])
def test_a_file_that_is_no_json_list_is_unreadable(tmp_path, text):
    path = tmp_path / "rows.json"
    path.write_text(text)
    with pytest.raises(UnreadableFileError):
        list(json_rows(path))


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
    with pytest.raises(DataError, match="column 'texts' is missing, found \\['a'\\]"):
        list(parquet_rows(path, ("texts",)))
