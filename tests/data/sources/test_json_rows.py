"""JSON of any shape and size: rows come one at a time, a bad one does not hide its neighbours."""

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from smolvlm2.data.ledger import LeftOutError
from smolvlm2.data.sources import json_rows as module
from smolvlm2.data.sources.json_rows import UnreadableFileError, json_rows


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


def test_numbers_and_words_in_a_list_are_rows_too(tmp_path):
    path = tmp_path / "rows.json"
    path.write_text('[{"a": 1}, 7, null, ["x"], {"a": 2}, true]')
    bad = "unreadable_record"
    assert short(json_rows(path)) == [
        (0, {"a": 1}), (1, bad), (2, bad), (3, bad), (4, {"a": 2}), (5, bad),
    ]  # fmt: skip


@pytest.mark.parametrize("opening", ["[", "{"])
def test_a_mark_of_utf8_in_front_is_passed_over(tmp_path, opening):
    path = tmp_path / "rows.json"
    text = '[{"a": 1}]' if opening == "[" else '{"a": 1}\n{"a": 2}\n'
    path.write_bytes(b"\xef\xbb\xbf" + text.encode())
    assert short(json_rows(path))[0] == (0, {"a": 1})


@pytest.mark.parametrize("end", ["", "\n", "\r\n  "])
def test_an_object_of_objects_gives_its_values_with_their_keys(tmp_path, end):
    path = tmp_path / "rows.json"
    path.write_text(json.dumps({"v1": {"a": 1}, "v2": {"a": 2, "id": "own"}}, indent=1) + end)
    assert short(json_rows(path)) == [(0, {"a": 1, "id": "v1"}), (1, {"a": 2, "id": "own"})]


def test_bad_values_of_an_object_do_not_hide_their_neighbours(tmp_path):
    path = tmp_path / "rows.json"
    path.write_bytes(b'{"a": {"x": 1}, "b": {"x" 1}, "c": {"x": "\xff"}, "d": {"x": 2}}')
    bad = "unreadable_record"
    assert short(json_rows(path)) == [
        (0, {"x": 1, "id": "a"}), (1, bad), (2, bad), (3, {"x": 2, "id": "d"}),
    ]  # fmt: skip


def test_one_line_of_json_is_told_from_an_object_of_objects(tmp_path):
    row = {"meta": {"id": 1}, "data": {"id": 2}}
    (tmp_path / "rows.jsonl").write_text(json.dumps(row) + "\n")
    assert short(json_rows(tmp_path / "rows.jsonl")) == [(0, row)]
    (tmp_path / "rows.NDJSON").write_text(json.dumps(row) + "\n")
    assert short(json_rows(tmp_path / "rows.NDJSON")) == [(0, row)]
    (tmp_path / "lines.json").write_text((json.dumps(row) + "\n") * 2)
    assert short(json_rows(tmp_path / "lines.json")) == [(0, row), (1, row)]
    single = {"id": "x", "conversations": [{"from": "human"}]}
    (tmp_path / "single.json").write_text(json.dumps(single))
    assert short(json_rows(tmp_path / "single.json")) == [(0, single)]


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.text('a"\\{}[]:,é漢\n ', max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("ab}", max_size=2), inner),
    max_leaves=6,
)


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    rows=st.lists(st.dictionaries(st.text("abé", max_size=3), VALUES, max_size=4), max_size=8),
    window=st.sampled_from([1, 7, 64, 1000]),
    plain=st.booleans(),
)
def test_windows_of_any_size_give_the_same_rows(tmp_path, monkeypatch, rows, window, plain):
    monkeypatch.setattr(module, "_SMALL_WINDOW", window)
    monkeypatch.setattr(module, "_LARGE_WINDOW", window)
    path = tmp_path / "rows.json"
    path.write_text(json.dumps(rows, ensure_ascii=plain), encoding="utf-8")
    assert short(json_rows(path)) == list(enumerate(rows))
    keyed = {f"k{number}": {"row": row} for number, row in enumerate(rows)}
    path.write_text(json.dumps({"x": {"row": 1}, **keyed}, ensure_ascii=plain), encoding="utf-8")
    assert [row["row"] for _, row in json_rows(path)] == [1, *rows]


def test_pages_that_were_read_are_given_back(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_RELEASE_BYTES", 8192)
    monkeypatch.setattr(module, "_LARGE_WINDOW", 4096)
    rows = [{"a": "x" * 100, "n": number} for number in range(1000)]
    path = tmp_path / "rows.json"
    path.write_text(json.dumps(rows))
    assert short(json_rows(path)) == list(enumerate(rows))
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert short(json_rows(path)) == list(enumerate(rows))


@pytest.mark.parametrize("text", ['[{"a":1}]\n[{"b":2}]', '[{"a":1},]]', '[{"a":1}]\0'])
def test_what_stands_behind_the_end_is_one_unreadable_row(tmp_path, text):
    path = tmp_path / "rows.json"
    path.write_text(text)
    rows = [row for _, row in json_rows(path)]
    assert isinstance(rows[0], dict)
    assert [row.reason for row in rows[1:]] == ["unreadable_record"]
