"""MovieChat: a film is a sample; questions about a moment are samples of their own."""

import pytest

from smolvlm2.data.ledger import LeftOutError
from smolvlm2.data.sources.moviechat import MovieChat
from smolvlm2.data.sources.prompts import MOVIECHAT

MOVIES = MovieChat(source="movies", licence="none")


def film(**fields):
    return {
        "info": {"video_path": "12.mp4", "fps": 24.0},
        "caption": "A man walks home.",
        "global": [{"question": "Is it day?", "answer": "Yes"}],
        "breakpoint": [{"time": 2400, "question": "What is on the desk?", "answer": "A lamp"}],
    } | fields


def records(row, file="jsons/12.json"):
    return list(MOVIES.records(row, file))


def test_a_film_gives_its_description_and_a_sample_a_moment():
    description, moment = records(film())
    assert (description.native_id, description.subset) == ("12", "descriptions")
    (question, caption, *others) = description.turns
    assert question[1] in MOVIECHAT
    assert caption == ("assistant", "A man walks home.")
    assert others == [("user", "Is it day?"), ("assistant", "Yes")]
    assert (moment.native_id, moment.subset) == ("12/breakpoint-0", "breakpoints")
    assert moment.turns == [("user", "At 01:40: What is on the desk?"), ("assistant", "A lamp")]


def test_a_moment_asks_for_a_film_that_lasts_so_long():
    description, moment = records(film())
    assert description.media[0].min_duration == 0
    assert moment.media[0].min_duration == 100
    assert moment.media[0].paths == description.media[0].paths == ("raw_videos/12.mp4", "12.mp4")


@pytest.mark.parametrize("fps", [None, 0, -24, "24", float("nan"), float("inf"), True])
def test_a_moment_without_frame_rate_cannot_be_told(fps):
    description, problem = records(film(info={"video_path": "12.mp4", "fps": fps}))
    assert description.subset == "descriptions"
    assert problem.reason == "incomplete_record"
    assert "12/breakpoint-0" in problem.detail


@pytest.mark.parametrize(
    "change", [{"time": None}, {"time": -1}, {"time": "late"}, {"question": " "}, {"question": 7}]
)
def test_an_incomplete_moment_is_refused_alone(change):
    good = {"time": 24, "question": "Who?", "answer": "He"}
    _, problem, moment = records(film(breakpoint=[good | change, good]))
    assert problem.reason == "incomplete_record"
    assert moment.native_id == "12/breakpoint-1"


def test_a_film_without_description_keeps_its_questions():
    (record, _) = records(film(caption=" "))
    assert record.turns == [("user", "Is it day?"), ("assistant", "Yes")]


def test_a_film_without_description_and_questions_has_no_caption():
    problem, moment = records(film(caption=None, **{"global": None}))
    assert problem.reason == "no_caption"
    assert moment.subset == "breakpoints"


def test_moments_of_another_shape_are_refused_alone():
    description, problem = records(film(breakpoint="none"))
    assert description.subset == "descriptions"
    assert problem.reason == "unreadable_record"


def test_a_film_without_path_is_named_by_its_file():
    record = records(film(info=None, breakpoint=None), "jsons/s02e10-3.json")[0]
    assert record.native_id == "s02e10-3"
    assert record.media[0].paths[0] == "raw_videos/s02e10-3.mp4"


@pytest.mark.parametrize("info", ["12.mp4", {"video_path": 12}])
def test_a_film_of_another_shape_is_unreadable(info):
    with pytest.raises(LeftOutError, match="unreadable_record"):
        records(film(info=info))


def test_only_the_folder_of_annotations_holds_rows(tmp_path):
    assert MOVIES.record_files(tmp_path) == []
    (tmp_path / "jsons").mkdir()
    assert MOVIES.record_files(tmp_path) == [tmp_path / "jsons"]
    assert MOVIES.archives(tmp_path) == []
