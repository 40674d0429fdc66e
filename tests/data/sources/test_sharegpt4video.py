"""ShareGPT4Video: the caption of the whole clip, and clips in zips by origin."""

import pytest

from smolvlm2.data.ledger import LeftOutError
from smolvlm2.data.media import is_safe_path
from smolvlm2.data.sources.prompts import SHAREGPT4VIDEO
from smolvlm2.data.sources.sharegpt4video import ShareGPT4Video

SHARED = ShareGPT4Video(source="shared", licence="none")


def row(*captions, **fields):
    captions = captions or (("0", "a segment"), ("-1", "the whole clip"))
    return {
        "video_id": "a1",
        "video_path": "panda/a1.mp4",
        "zip_folder": "panda_videos_1.zip",
        "captions": [{"idx": idx, "content": content} for idx, content in captions],
    } | fields


def record(*captions, **fields):
    (found,) = SHARED.records(row(*captions, **fields), "sharegpt4video_40k.jsonl")
    return found


@pytest.mark.parametrize("idx", ["-1", -1])
def test_the_answer_is_the_caption_of_the_whole_clip(idx):
    found = record(("0", "a segment"), (idx, "the whole clip"), ("1", "another"))
    assert found.turns == [("user", SHAREGPT4VIDEO[0]), ("assistant", "the whole clip")]
    assert (found.native_id, found.subset) == ("panda/a1", "panda")


@pytest.mark.parametrize("captions", [[("0", "x")], [("-1", "")], [("-1", None)]])
def test_without_that_caption_there_is_none(captions):
    with pytest.raises(LeftOutError, match="no_caption: the caption with idx -1 is"):
        record(*captions)


def test_a_row_without_captions_has_none():
    with pytest.raises(LeftOutError, match="no_caption"):
        record(captions=None)


@pytest.mark.parametrize("captions", ["text", ["text"], {"-1": "text"}])
def test_captions_of_another_shape_are_unreadable(captions):
    with pytest.raises(LeftOutError, match="unreadable_record"):
        record(captions=captions)


def test_clips_are_looked_for_with_and_without_the_folder_of_their_origin():
    (medium,) = record().media
    assert medium.kind == "video"
    assert medium.paths == (
        "zip_folder/panda/a1.mp4", "zip_folder/panda/panda/a1.mp4", "panda/a1.mp4",
    )  # fmt: skip


def test_a_bare_name_takes_its_origin_from_the_zip():
    found = record(video_path="a1.mp4", zip_folder="ego4d_videos_3.zip")
    assert found.subset == "ego4d"
    assert found.media[0].paths[0] == "zip_folder/ego4d/a1.mp4"


def test_a_folder_that_is_spelled_unlike_its_paths_is_found():
    found = record(video_path="mixkit/a1.mp4")
    assert found.subset == "mixit"
    assert found.media[0].paths[:2] == (
        "zip_folder/mixit/a1.mp4", "zip_folder/mixit/mixkit/a1.mp4",
    )  # fmt: skip


@pytest.mark.parametrize("path", ["/data/a1.mp4", "../a1.mp4"])
def test_paths_that_leave_the_data_set_stay_unsafe(path):
    assert not is_safe_path(record(video_path=path).media[0].paths[0])


@pytest.mark.parametrize(
    ("path", "reason"),
    [(None, "missing_media"), (7, "unreadable_record"), (["a", "b"], "unreadable_record")],
)
def test_a_row_names_one_clip(path, reason):
    with pytest.raises(LeftOutError, match=reason):
        record(video_path=path)


def test_the_training_mix_beside_the_captions_is_not_read(tmp_path):
    for name in ("sharegpt4video_40k.jsonl", "llava_v1_5_mix665k_with_video_chatgpt72k.json"):
        (tmp_path / name).write_text("{}")
    names = [path.name for path in SHARED.record_files(tmp_path)]
    assert names == ["sharegpt4video_40k.jsonl"]
