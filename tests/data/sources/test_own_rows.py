"""Rows of a user's own, in each layout that is read, and what is said of those that are not."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from smolvlm2.data.ledger import LeftOutError
from smolvlm2.data.manifest import Manifest
from smolvlm2.data.prepare import PrepareSettings, prepare_source
from smolvlm2.data.sources.catalogue import find_source
from smolvlm2.data.sources.own_rows import OwnParquet, OwnRows, own_adapter
from smolvlm2.errors import ConfigError, DataError

OWN = OwnRows(source="own", licence="the user's own")
PARQUET = OwnParquet(source="own", licence="the user's own")
ANSWER = {"role": "assistant", "content": "A cat."}


def record(row, file="set/train.jsonl", adapter=OWN):
    (found,) = adapter.records(row, file)
    return found


def kinds_and_paths(found):
    return [(medium.kind, medium.paths) for medium in found.media]


def test_items_of_messages_name_their_files():
    content = [
        {"type": "video", "path": "v.mp4"},
        {"type": "text", "text": "Which of them is in "},
        {"type": "image", "image": "a.png"},
        {"type": "text", "text": "?"},
    ]
    found = record({"id": 7, "messages": [{"role": "user", "content": content}, ANSWER]})
    assert found.turns == [
        ("user", "<video>Which of them is in <image>?"),
        ("assistant", "A cat."),
    ]
    assert kinds_and_paths(found) == [
        ("video", ("set/v.mp4", "v.mp4")),
        ("image", ("set/a.png", "a.png")),
    ]
    assert (found.native_id, found.subset) == ("train/7", "train")


@pytest.mark.parametrize(
    "fields",
    [
        {"image": "a.png", "videos": ["v.mp4"]},
        {"images": ["a.png"], "video": "v.mp4"},
    ],
)
def test_media_beside_the_conversation_go_where_their_markers_stand(fields):
    turns = [
        {"from": "human", "value": "<video>\nand <image>?"},
        {"from": "gpt", "value": "A cat."},
    ]
    found = record({"conversations": turns, **fields}, "rows.json")
    assert kinds_and_paths(found) == [("video", ("v.mp4",)), ("image", ("a.png",))]
    assert found.native_id is None


def test_items_without_names_take_the_listed_files():
    content = [{"type": "image"}, {"type": "text", "text": "What?"}]
    found = record(
        {"messages": [{"role": "user", "content": content}, ANSWER], "images": ["a.png"]}
    )
    assert found.turns[0] == ("user", "<image>What?")
    assert kinds_and_paths(found) == [("image", ("set/a.png", "a.png"))]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"id": 1, "text": "x"}, r"keys are \['id', 'text'\]; expected one of messages, conv"),
        ({"messages": [{"role": "user", "content": [{"type": "audio"}]}]}, "type 'audio'; expect"),
        ({"messages": [{"role": "user", "content": ["x"]}]}, "'content' is .* list of objects"),
        (
            {
                "messages": [
                    {"role": "user", "content": [{"type": "image", "path": "a"}, {"type": "image"}]}
                ]
            },
            "1 items of the messages name a file and 1 do not",
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "image", "url": "a.png"}]}]},
            "1 items of the messages name no file; expected 'path' in each",
        ),
        ({"messages": [ANSWER], "images": [3]}, r"media are \[3\]; expected paths"),
    ],
)
def test_rows_that_say_something_else_are_refused(row, message):
    with pytest.raises(LeftOutError, match=message):
        record(row)


def test_parquet_rows_hold_their_images():
    image = {"bytes": b"x", "path": None}
    texts = [{"user": "What?", "assistant": "A cat."}]
    found = record({"texts": texts, "images": [image, image]}, "part/0.parquet", PARQUET)
    assert found.turns == [("user", "What?"), ("assistant", "A cat.")]
    assert [medium.data for medium in found.media] == [b"x", b"x"]
    assert found.subset == "part"
    messages = [{"role": "user", "content": [{"type": "image", "path": "a.png"}]}, ANSWER]
    with pytest.raises(LeftOutError, match="names a file; expected the bytes in 'images'"):
        record({"messages": messages}, "0.parquet", PARQUET)


@pytest.mark.parametrize("named", [True, False])
def test_a_text_item_that_spells_a_marker_is_text(raw, prepare, png, named):
    for name in ("a", "b"):
        (raw / f"{name}.png").write_bytes(png(ord(name)))
    image = {"type": "image", "path": "a.png"} if named else {"type": "image"}
    content = [image, {"type": "text", "text": "What does <image> mean in a prompt?"}]
    row = {"messages": [{"role": "user", "content": content}, ANSWER]}
    if not named:
        turns = [{"role": "user", "content": "And <image>?"}, {"role": "assistant", "content": "B"}]
        row = {"messages": [*row["messages"], *turns], "images": ["a.png", "b.png"]}
    (raw / "rows.jsonl").write_text(json.dumps(row))
    folder, _ = prepare(OWN)
    messages = Manifest.open(folder).row(0).messages
    assert messages[0]["content"] == [
        {"type": "image"},
        {"type": "text", "text": "What does <image> mean in a prompt?"},
    ]
    if not named:
        assert [part["type"] for part in messages[2]["content"]] == ["text", "image", "text"]


@pytest.mark.parametrize("fields", [{"image": b"bytes"}, {"images": [{"bytes": b"bytes"}]}])
def test_images_in_parquet_may_be_plain_bytes(fields):
    row = {"messages": [{"role": "user", "content": "What?"}, ANSWER], **fields}
    assert [medium.data for medium in record(row, adapter=PARQUET).media] == [b"bytes"]


def test_a_folder_named_like_a_parquet_file_is_looked_into(tmp_path):
    (tmp_path / "rows.parquet").mkdir()
    part = tmp_path / "rows.parquet" / "part-0.parquet"
    part.touch()
    assert PARQUET.record_files(tmp_path) == [part]


def test_a_folder_of_own_rows_becomes_a_source(tmp_path, tokenizer, png):
    folder = tmp_path / "raw" / "mine"
    (folder / "pictures").mkdir(parents=True)
    for name in ("a", "b"):
        (folder / "pictures" / f"{name}.png").write_bytes(png(30, 20))
    rows = [
        {
            "messages": [
                {"role": "user", "content": [{"type": "image", "path": f"pictures/{name}.png"}]},
                {"role": "assistant", "content": f"picture {name}"},
            ]
        }
        for name in "abc"
    ]
    rows.append({"messages": [{"role": "user", "content": "<image>?"}, ANSWER], "image": "/a.png"})
    (folder / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    source = find_source("mine", tmp_path / "raw")
    assert source.raw_folder == "mine"
    out = tmp_path / "prepared" / "mine"
    summary = prepare_source(source.adapter, folder, out, tokenizer)
    assert (summary.rows_read, summary.rows_kept) == (4, 2)
    assert summary.rows_left_out == {"missing_media": 1, "unsafe_path": 1}
    row = Manifest.open(out).row(1)
    assert row.messages[1]["content"] == [{"type": "text", "text": "picture b"}]


def test_names_and_folders_that_are_none_are_refused(tmp_path):
    (tmp_path / "raw").mkdir()
    for name in ("mine", "../raw", ".hidden"):
        with pytest.raises(
            ConfigError, match=r"is unknown; .* or a folder .* with rows of your own"
        ):
            find_source(name, tmp_path / "raw")
    (tmp_path / "raw" / "mine").mkdir()
    with pytest.raises(ConfigError, match="did you mean 'mine'"):
        find_source("mines", tmp_path / "raw")


def test_parquet_is_read_where_there_are_no_json_rows(tmp_path):
    (tmp_path / "0.PARQUET").touch()
    (tmp_path / ".cache").mkdir()
    (tmp_path / ".cache" / "lock.json").touch()
    for note in ("download.json", "dataset_infos.json"):
        (tmp_path / note).touch()
    assert own_adapter(tmp_path) == "own_rows:OwnParquet"
    assert PARQUET.record_files(tmp_path) == [tmp_path / "0.PARQUET"]
    (tmp_path / "rows.json").touch()
    with pytest.raises(DataError, match=r"JSON \(rows.json\) and in parquet \(0.PARQUET\)"):
        own_adapter(tmp_path)


def test_parquet_that_was_consumed_is_still_parquet(tmp_path, tokenizer, png):
    folder = tmp_path / "raw" / "mine"
    folder.mkdir(parents=True)
    row = {"messages": [{"role": "user", "content": "?"}, ANSWER], "images": [png()]}
    pq.write_table(pa.Table.from_pylist([row]), folder / "a.parquet")
    out = tmp_path / "prepared" / "mine"
    for _ in range(2):
        adapter = find_source("mine", tmp_path / "raw").adapter
        settings = PrepareSettings(consume=True)
        assert prepare_source(adapter, folder, out, tokenizer, settings).rows_kept == 1
        assert not (folder / "a.parquet").exists()


def test_rows_are_found_in_whatever_case_their_endings_are_written(tmp_path):
    for name in ("a.json", "b.JSONL", "c.ndjson", "d.txt"):
        (tmp_path / name).touch()
    (tmp_path / "link.json").symlink_to(tmp_path / "nowhere")
    files = [path.name for path in OWN.record_files(tmp_path)]
    assert files == ["a.json", "b.JSONL", "c.ndjson", "link.json"]


def test_an_image_of_another_form_is_named(tmp_path):
    row = {"messages": [{"role": "user", "content": "?"}, ANSWER], "image": [b"bytes"]}
    with pytest.raises(LeftOutError, match=r"image without bytes: \[b'bytes'\]; expected"):
        record(row, adapter=PARQUET)
