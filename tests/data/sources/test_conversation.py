"""Published turns become messages: places of media, repairs, refusals."""

from collections import Counter

import pytest

from smolvlm2.data.ledger import LeftOutError
from smolvlm2.data.sources.conversation import build_messages

PAIR = [("human", "q"), ("gpt", "a")]


def build(turns, media=0, kind="image", placeholders=("<image>",), swap=False):
    """Messages in short form, order, places, repairs."""
    repairs = Counter()
    messages, order, where = build_messages(
        turns,
        media_kinds=[kind] * media,
        placeholders=placeholders,
        swap_roles=swap,
        repairs=repairs,
    )
    short = [
        (m["role"], [part.get("text", part["type"].upper()) for part in m["content"]])
        for m in messages
    ]
    return short, order, where, dict(repairs)


def reason(turns, **options):
    with pytest.raises(LeftOutError) as caught:
        build(turns, **options)
    return caught.value.reason


@pytest.mark.parametrize("user", ["human", "user"])
@pytest.mark.parametrize("assistant", ["gpt", "assistant", "model"])
def test_all_spellings_of_roles_are_known(user, assistant):
    messages, *_ = build([(user, "q"), (assistant, "a")])
    assert messages == [("user", ["q"]), ("assistant", ["a"])]


def test_a_system_turn_stays_in_front():
    messages, _, where, _ = build([("system", "s"), *PAIR], media=1)
    assert messages == [("system", ["s"]), ("user", ["IMAGE", "q"]), ("assistant", ["a"])]
    assert where == [1]


def test_a_system_turn_in_the_middle_is_refused():
    assert reason([*PAIR, ("system", "s"), *PAIR]) == "bad_role_order"


def test_placeholders_keep_their_places():
    text = "Before: <image> After: <image>\nWhat changed?"
    messages, order, where, _ = build([("human", text), ("gpt", "a")], media=2)
    assert messages[0][1] == ["Before: ", "IMAGE", " After: ", "IMAGE", "What changed?"]
    assert (order, where) == ([0, 1], [0, 0])


@pytest.mark.parametrize("text", ["<image>\nq", "<image>q", "<image> q", " <image> \n q ", "q"])
def test_a_leading_image_reads_the_same_however_it_is_set_apart(text):
    assert build([("human", text), ("gpt", "a")], media=1)[0][0][1] == ["IMAGE", "q"]


def test_a_trailing_image_stays_behind_its_question():
    assert build([("human", "q\n<image>"), ("gpt", "a")], media=1)[0][0][1] == ["q", "IMAGE"]


def test_images_of_later_turns_stand_in_those_turns():
    turns = [("human", "<image>\none"), ("gpt", "a"), ("human", "two <image>"), ("gpt", "b")]
    messages, _, where, _ = build(turns, media=2)
    assert messages[2][1] == ["two ", "IMAGE"]
    assert where == [0, 2]


def test_without_placeholders_all_media_come_first():
    assert build(PAIR, media=3)[0][0][1] == ["IMAGE", "IMAGE", "IMAGE", "q"]


@pytest.mark.parametrize("placeholder", ["<image>", "<video>"])
def test_either_placeholder_means_the_video(placeholder):
    turns = [("human", f"{placeholder}\nq"), ("gpt", "a")]
    messages, *_ = build(turns, media=1, kind="video", placeholders=("<image>", "<video>"))
    assert messages[0][1] == ["VIDEO", "q"]


@pytest.mark.parametrize("media", [0, 1, 3])
def test_a_wrong_number_of_placeholders_is_refused(media):
    turns = [("human", "<image> <image> q"), ("gpt", "a")]
    assert reason(turns, media=media) == "placeholder_mismatch"


def test_a_placeholder_in_an_answer_is_text():
    messages, *_ = build([("human", "q"), ("gpt", "say <image>")], media=1)
    assert messages == [("user", ["IMAGE", "q"]), ("assistant", ["say <image>"])]


def test_without_placeholder_strings_the_marker_is_text():
    messages, *_ = build([("user", "what is <image>?"), ("assistant", "a")], 1, placeholders=())
    assert messages[0][1] == ["IMAGE", "what is <image>?"]


def test_an_empty_conversation_is_refused():
    assert reason([]) == "no_conversation"


@pytest.mark.parametrize("empty", ["", "  \n", None, "\x00"])
def test_a_pair_without_answer_goes_and_its_image_moves_on(empty):
    turns = [("human", "<image>\none"), ("gpt", empty), ("human", "two"), ("gpt", "b")]
    messages, order, where, repairs = build(turns, media=1)
    assert messages == [("user", ["IMAGE", "two"]), ("assistant", ["b"])]
    assert (order, where) == ([0], [0])
    assert repairs["unanswered_question"] == 1


def test_an_image_first_shown_after_the_last_answer_goes_with_its_question():
    turns = [("human", "<image>one"), ("gpt", "a"), ("human", "<image>two")]
    messages, order, _, repairs = build(turns, media=2)
    assert messages == [("user", ["IMAGE", "one"]), ("assistant", ["a"])]
    assert order == [0]
    assert repairs == {"unanswered_question": 1, "medium_of_unanswered_question": 1}


@pytest.mark.parametrize("turns", [[("human", "q"), ("gpt", "")], [("human", "q")]])
def test_no_answer_at_all_is_refused(turns):
    assert reason(turns) == "empty_answer"


def test_a_caption_without_question_needs_its_image():
    assert build([("human", ""), ("gpt", "a")], media=1)[0][0] == ("user", ["IMAGE"])
    assert reason([("human", ""), ("gpt", "a")]) == "empty_answer"


def test_leading_answers_are_dropped_and_counted():
    messages, _, _, repairs = build([("gpt", "hello"), *PAIR])
    assert messages == [("user", ["q"]), ("assistant", ["a"])]
    assert repairs == {"leading_assistant_turn": 1}


def test_swapped_roles_are_exchanged_and_counted():
    turns = [("gpt", "<image>q"), ("human", "a")]
    messages, _, _, repairs = build(turns, media=1, swap=True)
    assert messages == [("user", ["IMAGE", "q"]), ("assistant", ["a"])]
    assert repairs == {"swapped_roles": 1}


@pytest.mark.parametrize(
    "turns",
    [
        [("gpt", "a")],
        [("system", "s")],
        [("human", "q"), ("human", "q"), ("gpt", "a")],
        [*PAIR, ("gpt", "a")],
        [("narrator", "q"), ("gpt", "a")],
        [(None, "q"), ("gpt", "a")],
        [(["human"], "q"), ("gpt", "a")],
    ],
)
def test_other_orders_of_roles_are_refused(turns):
    assert reason(turns) == "bad_role_order"


def test_control_characters_go_but_newlines_and_tabs_stay():
    messages, _, _, repairs = build([("human", "a\x00b\x1bc\x85\td\ne"), ("gpt", "x\r\ny")])
    assert messages == [("user", ["abc\td\ne"]), ("assistant", ["x\ny"])]
    assert repairs == {"control_characters": 1}


def test_half_a_surrogate_pair_is_bad_text():
    assert reason([("human", "\ud83d"), ("gpt", "a")]) == "bad_text"


def test_text_that_is_no_text_is_unreadable():
    assert reason([("human", 7), ("gpt", "a")]) == "unreadable_record"


@pytest.mark.parametrize("code", [*range(0x00, 0x20), *range(0x7E, 0xA2), 0x2028, 0x1F600])
def test_each_character_is_kept_or_removed_by_itself(code):
    removed = (code < 0x20 or 0x7F <= code < 0xA0) and chr(code) not in "\t\n"
    messages, _, _, repairs = build([("human", "q"), ("gpt", f"a{chr(code)}b")])
    assert messages[1][1] == ["ab" if removed else f"a{chr(code)}b"]
    assert repairs == ({"control_characters": 1} if removed else {})
