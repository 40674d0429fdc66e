"""Rows of a folder, prepared sources, and one clear line for each mistake."""

import json

import pytest

from smolvlm2.apple.samples import answers, encode, open_samples
from smolvlm2.errors import DataError, DataNotFoundError

TALK = [
    {"role": "user", "content": "What is this?"},
    {"role": "assistant", "content": "A cat."},
]


@pytest.fixture
def write(tmp_path):
    """Writes rows into a folder's train.jsonl."""

    def make(*rows):
        lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
        (tmp_path / "train.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
        return tmp_path

    return make


def test_a_row_without_markers_gets_its_media_before_the_first_question(write):
    row = {"messages": TALK, "images": ["a.png", "b.png"], "videos": ["c.mp4"]}
    sample = open_samples(write(row)).read(0)
    kinds = [item["type"] for item in sample.messages[0]["content"]]
    assert kinds == ["image", "image", "video", "text"]
    assert [path.name for path in sample.media] == ["a.png", "b.png", "c.mp4"]


def test_markers_take_media_of_their_kind_in_order(write):
    content = [{"type": "video"}, {"type": "text", "text": "and"}, {"type": "image"}]
    talk = [{"role": "user", "content": content}, TALK[1]]
    row = {"id": "mine", "messages": talk, "images": ["a.png"], "videos": ["c.mp4"]}
    sample = open_samples(write("", row)).read(0)
    assert sample.sample_id == "mine"
    assert [path.name for path in sample.media] == ["c.mp4", "a.png"]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("{", r"train.jsonl:1: not JSON .*expected one object a line"),
        (["x"], r"a list, expected an object with 'messages'"),
        ({"messages": TALK, "image": ["a.png"]}, "unknown key 'image'; did you mean 'images'"),
        ({"conversations": TALK}, "unknown key 'conversations'; expected 'id', 'messages'"),
        (
            {"messages": [{**TALK[0], "weight": 1}, TALK[1]]},
            "message 0: unknown key 'weight'; expected 'role', 'content'",
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "image", "path": "a"}]}, TALK[1]]},
            "item of type 'image': unknown key 'path'; expected 'type'",
        ),
        ({"messages": TALK, "images": "a.png"}, "'images' is 'a.png'; expected a list of paths"),
        ({"messages": TALK, "images": ["../a.png"]}, "expected a path below"),
        ({"messages": "hello"}, "'messages' is 'hello'; expected a list of messages"),
        ({"messages": [{"role": "robot", "content": "x"}]}, "message 0 has role 'robot'"),
        ({"messages": TALK[:1]}, r"roles are \['user'\]; expected a user's and an assistant's"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image"}]}, TALK[1]]},
            "1 items of type 'image' but 0 images; give one item for each, or none",
        ),
    ],
)
def test_a_malformed_row_is_one_clear_line(write, row, message):
    with pytest.raises(DataError, match=message):
        open_samples(write(row)).read(0)


def test_an_empty_file_and_an_empty_folder_are_told_apart(write, tmp_path):
    with pytest.raises(DataNotFoundError, match=r"holds neither train\.jsonl nor prepared sources"):
        open_samples(tmp_path)
    with pytest.raises(DataError, match="holds no row"):
        open_samples(write(""))


def test_a_corrupt_clip_names_the_sample_and_the_command_that_helps(write, processor):
    folder = write({"id": "clip", "messages": TALK, "videos": ["c.mp4"]})
    (folder / "c.mp4").write_bytes(b"no video at all")
    samples = open_samples(folder)
    with pytest.raises(DataError, match=r"clip: .*test_data_loading.py --data") as caught:
        encode(samples.read(0), processor, folder=folder)
    assert "\n" not in str(caught.value)


def test_a_sample_longer_than_the_context_is_refused_not_cut(write, processor):
    talk = [{"role": "user", "content": "word " * 600}, TALK[1]]
    samples = open_samples(write({"messages": talk}))
    with pytest.raises(DataError, match=r"tokens, .* supervised; expected at most 512 tokens"):
        encode(samples.read(0), processor, folder=samples.folder)


def test_every_assistant_turn_is_an_answer():
    talk = [*TALK, {"role": "user", "content": "Sure?"}, {"role": "assistant", "content": "Yes."}]
    assert list(answers(talk)) == ["A cat.", "Yes."]


def test_prepared_sources_are_read_row_by_row(tmp_path, tokenizer, processor, picture):
    import io

    import pyarrow as pa
    import pyarrow.parquet as pq

    from smolvlm2.apple.checking import check_samples
    from smolvlm2.data.demo.layouts import CAULDRON_SCHEMA
    from smolvlm2.data.prepare import prepare_source
    from smolvlm2.data.sources.cauldron import ImagesAndTexts

    png = io.BytesIO()
    picture(40, 40).save(png, "PNG")
    rows = [
        {
            "images": [{"bytes": png.getvalue(), "path": None}],
            "texts": [{"user": f"What is {n}?", "assistant": "A cat.", "source": "made"}],
        }
        for n in range(3)
    ]
    raw = tmp_path / "raw/demo__made/made/train-00000-of-00001.parquet"
    raw.parent.mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist(rows, schema=CAULDRON_SCHEMA), raw)
    adapter = ImagesAndTexts(source="made", licence="none")
    prepare_source(adapter, raw.parents[1], tmp_path / "prepared/made", tokenizer)
    samples = open_samples(tmp_path)
    assert len(samples) == 3
    assert samples.read(2).sample_id.startswith("made/")
    report = check_samples(samples, processor)
    assert (report.usable, report.problems, report.media["image"]) == (3, [], 3)
    assert samples.digest() == open_samples(tmp_path / "prepared/made").digest()
