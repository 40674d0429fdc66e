"""MAmmoTH-VL: which media a row has names its subset; paths are looked for in every layout."""

import pytest

from smolvlm2.data.ledger import LeftOutError
from smolvlm2.data.sources.mammoth import MammothVL

MAMMOTH = MammothVL(source="mammoth", licence="none")


def record(text="q", **fields):
    row = {
        "id": "ov-9",
        "conversations": [{"from": "human", "value": text}, {"from": "gpt", "value": "a"}],
    }
    (record,) = MAMMOTH.records(row | fields, "mammoth_ov_2M.json")
    return record


@pytest.mark.parametrize(
    ("media", "subset"),
    [
        ({}, "text"),
        ({"image": ""}, "text"),
        ({"image": "a.jpg"}, "image"),
        ({"image": ["a.jpg"]}, "image"),
        ({"image": ["a.jpg", "b.jpg"]}, "multi_image"),
        ({"video": "a.mp4"}, "video"),
        ({"image": None, "video": ["a.mp4"]}, "video"),
    ],
)
def test_media_name_the_subset(media, subset):
    found = record(**media)
    assert found.subset == subset
    assert found.native_id == f"{subset}/ov-9"


def test_paths_are_looked_for_in_their_folder_first():
    assert record(image="s/a.jpg").media[0].paths[:2] == ("single_image_data/s/a.jpg", "s/a.jpg")
    several = record(image=["m/a.jpg", "m/b.jpg"]).media
    assert [medium.paths[0] for medium in several] == [
        "multi_image_data/m/a.jpg",
        "multi_image_data/m/b.jpg",
    ]
    clip = record(video="v/a.mp4").media[0]
    assert (clip.kind, clip.paths) == ("video", ("video_data/v/a.mp4", "v/a.mp4"))


def test_a_row_with_an_image_and_a_clip_keeps_their_order():
    media = record("<video> or <image>?", image="a.jpg", video="a.mp4").media
    assert [medium.kind for medium in media] == ["video", "image"]


def test_media_that_are_no_paths_are_unreadable():
    with pytest.raises(LeftOutError, match="unreadable_record"):
        record(image={"path": "a.jpg"})


def test_the_large_files_and_their_earlier_parts_hold_the_rows(tmp_path):
    names = ["mammoth_ov_2M.json", "mammoth_si_10M.json", "mammoth_si_part1(1003_8M).json"]
    for name in [*names, "other.json"]:
        (tmp_path / name).write_text("[]")
    (tmp_path / "video_data").mkdir()
    (tmp_path / "video_data" / "shard_1.tar.gz").write_bytes(b"")
    assert [path.name for path in MAMMOTH.record_files(tmp_path)] == names
    assert [path.name for path in MAMMOTH.archives(tmp_path)] == ["shard_1.tar.gz"]
