"""Video-STaR: keys that were never confirmed, and clips that have to be brought."""

import pytest

from smolvlm2.data.ledger import LeftOutError
from smolvlm2.data.sources.video_star import VideoStar

STAR = VideoStar(source="star", licence="none")
TURNS = [{"from": "human", "value": "<video>\nq"}, {"from": "gpt", "value": "a"}]


def record(file="ft_json/kinetics700_tune_.json", **fields):
    (found,) = STAR.records({"conversations": TURNS} | fields, file)
    return found


@pytest.mark.parametrize("subset", ["kinetics700", "starb", "finediving"])
def test_the_file_names_the_subset(subset):
    found = record(f"ft_json/{subset}_tune_.json", id=3, video="x.mp4")
    assert (found.subset, found.native_id) == (subset, f"{subset}/3")


@pytest.mark.parametrize("key", ["video", "video_path", "video_id"])
def test_the_clip_is_found_under_every_key(key):
    assert record(**{key: "y_000017_000027.mp4"}).media[0].paths[0] == (
        "Kinetics700/y_000017_000027.mp4"
    )


def test_an_id_alone_stands_for_a_clip():
    assert record(id="y_000017_000027").media[0].paths[0] == "Kinetics700/y_000017_000027.mp4"


def test_the_ledger_will_name_the_folder_that_the_clip_belongs_in():
    for video in ("FineDiving/17_8.mp4", "17_8.mp4", "other/17_8.mp4"):
        paths = record("ft_json/finediving_tune_.json", video=video).media[0].paths
        assert paths[0].startswith("FineDiving/")
        assert "FineDiving/17_8.mp4" in paths


@pytest.mark.parametrize("video", ["/data/x.mp4", "../x.mp4"])
def test_paths_that_leave_the_data_set_stay_as_they_are(video):
    assert record(video=video).media[0].paths == (video,)


@pytest.mark.parametrize("fields", [{}, {"id": 7}, {"video": ""}])
def test_a_row_without_a_clip_lacks_its_medium(fields):
    with pytest.raises(LeftOutError, match="missing_media: the row names no clip"):
        record(**fields)
