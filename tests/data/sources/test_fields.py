"""Fields of published rows, in whatever form they were written."""

import pytest

from smolvlm2.data.ledger import LeftOutError
from smolvlm2.data.sources.fields import (
    below,
    caption_of,
    clip_paths,
    embedded_image,
    in_marked_order,
    native_id,
    object_of,
    objects_of,
    paths_of,
    question_turns,
    stem_of,
    turns_of,
    visible,
)
from smolvlm2.data.sources.record import RawMedium


def test_turns_are_read_under_both_spellings():
    turns = [{"from": "human", "value": "q"}, {"role": "assistant", "content": "a"}]
    assert turns_of(turns) == [("human", "q"), ("assistant", "a")]


def test_a_null_spelling_gives_way_to_the_other():
    turn = {"from": None, "value": None, "role": "user", "content": "q", "markdown": None}
    assert turns_of([turn]) == [("user", "q")]


def test_no_conversation_has_no_turns():
    assert turns_of(None) == []


@pytest.mark.parametrize("value", ["text", {"from": "human"}, ["q", "a"], [None], 7])
def test_turns_that_are_no_list_of_objects_are_unreadable(value):
    with pytest.raises(LeftOutError, match=r"unreadable_record: 'conversations' is .* objects"):
        turns_of(value)


def test_questions_and_answers_become_turns():
    pairs = [{"question": "q", "answer": "a"}, {"question": "p"}]
    expected = [("user", "q"), ("assistant", "a"), ("user", "p"), ("assistant", None)]
    assert question_turns(pairs, "global") == expected


@pytest.mark.parametrize(("value", "expected"), [(None, []), ("", []), ([], []), ("a", ["a"])])
def test_one_path_and_no_path_are_lists_too(value, expected):
    assert paths_of(value) == expected


@pytest.mark.parametrize("value", [7, 0, {}, {"a": 1}, [7], ["a", None], ["a", ""]])
def test_media_that_are_no_paths_are_unreadable(value):
    with pytest.raises(LeftOutError, match=r"unreadable_record: media are .*; expected paths"):
        paths_of(value)


def test_a_message_never_repeats_a_large_value_whole():
    with pytest.raises(LeftOutError) as caught:
        paths_of([7] * 10_000)
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize("value", [None, "", []])
def test_a_row_that_names_no_clip_lacks_its_medium(value):
    with pytest.raises(LeftOutError, match="missing_media: the row names no clip"):
        clip_paths(value)


def test_candidates_lie_below_each_folder_once_and_in_order():
    assert below(("a", "b/c", "", "a"), "x.mp4") == ("a/x.mp4", "b/c/x.mp4", "x.mp4")
    assert below(("a",), "./x.mp4") == ("a/x.mp4",)


def test_an_absolute_path_stays_absolute():
    assert below(("a", "b"), "/etc/passwd") == ("/etc/passwd",)


@pytest.mark.parametrize("value", [None, "", " \n"])
def test_an_empty_caption_is_none(value):
    with pytest.raises(LeftOutError, match=r"no_caption: the caption is .*; expected a caption"):
        caption_of(value, "the caption")


def test_a_caption_that_is_no_text_is_unreadable():
    with pytest.raises(LeftOutError, match="unreadable_record: the caption is 7; expected text"):
        caption_of(7, "the caption")


def test_null_is_an_empty_object_and_an_empty_list():
    assert object_of(None, "meta") == {}
    assert objects_of(None, "pairs") == []


def test_an_object_that_is_a_list_is_unreadable():
    with pytest.raises(LeftOutError, match=r"unreadable_record: 'meta' is \[\]; expected an obj"):
        object_of([], "meta")


@pytest.mark.parametrize("value", [None, {}, {"bytes": None, "path": "a.png"}, {"bytes": b""}, "x"])
def test_an_image_without_bytes_is_missing(value):
    with pytest.raises(LeftOutError, match="missing_media: image without bytes"):
        embedded_image(value)


def media(*kinds):
    return [RawMedium(kind=kind, paths=(f"{kind}{number}",)) for number, kind in enumerate(kinds)]


def order(turns):
    found = in_marked_order(media("image", "image", "video"), turns)
    return [medium.paths[0] for medium in found]


def test_media_of_both_kinds_follow_their_markers():
    turns = [("human", "<video> then <image>"), ("gpt", "<image>"), ("human", "<image>")]
    assert order(turns) == ["video2", "image0", "image1"]


@pytest.mark.parametrize("text", ["", "<image><image><image>", "<image><image>"])
def test_media_stay_in_order_where_markers_do_not_tell(text):
    assert order([("human", text)]) == ["image0", "image1", "video2"]


@pytest.mark.parametrize(
    ("subset", "value", "expected"),
    [("s", 7, "s/7"), ("", "x", "x"), ("s", 0, "s/0"), ("s", None, None), ("s", "", None)],
)
def test_ids_stand_below_their_subset(subset, value, expected):
    assert native_id(subset, value) == expected


@pytest.mark.parametrize(
    ("file", "stem"), [("a/b.tar.gz", "b.tar"), ("b.json", "b"), ("a.b/c.json", "c")]
)
def test_a_stem_has_no_folder_and_no_suffix(file, stem):
    assert stem_of(file) == stem


def test_hidden_files_and_folders_are_passed_over(tmp_path):
    for name in ("b.json", ".a.json", ".cache/c.json", "d/e.json"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text("[]")
    found = visible(tmp_path, tmp_path.rglob("*.json"))
    assert [path.relative_to(tmp_path).as_posix() for path in found] == ["b.json", "d/e.json"]
