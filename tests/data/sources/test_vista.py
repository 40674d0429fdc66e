"""VISTA: the key ``image`` names a clip, and a folder is spelled in two ways."""

import pytest

from smolvlm2.data.ledger import LeftOutError
from smolvlm2.data.sources.vista import Vista

VISTA = Vista(source="vista", licence="none")
TURNS = [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]


def record(file="temporal_niah_qa/temporal_niah_qa.json", **fields):
    (found,) = VISTA.records({"conversations": TURNS} | fields, file)
    return found


@pytest.mark.parametrize("key", ["image", "video"])
def test_the_medium_is_a_clip_whatever_its_key(key):
    (medium,) = record(**{key: "a_19_17to138.mp4"}).media
    assert medium.kind == "video"
    assert medium.paths == ("temporal_niah_qa/a_19_17to138.mp4", "a_19_17to138.mp4")


def test_annotations_lie_in_the_folder_or_beside_it():
    inside = record("long_video_caption/long_video_caption.json", image="x.mp4", id=4)
    beside = record("long_video_caption.json", image="x.mp4", id=4)
    assert inside == beside
    assert (inside.subset, inside.native_id) == ("long_video_caption", "long_video_caption/4")


@pytest.mark.parametrize(
    ("one", "other"),
    [("spatialtemporal", "spatiotemporal"), ("spatiotemporal", "spatialtemporal")],
)
def test_both_spellings_of_a_folder_are_looked_for(one, other):
    found = record(f"{one}_niah_mcq.json", image="x.mp4")
    assert found.subset == f"{one}_niah_mcq"
    assert found.media[0].paths == (f"{one}_niah_mcq/x.mp4", f"{other}_niah_mcq/x.mp4", "x.mp4")


def test_a_row_without_a_clip_lacks_its_medium():
    with pytest.raises(LeftOutError, match="missing_media"):
        record()
