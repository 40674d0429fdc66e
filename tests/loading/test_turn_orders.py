"""Messages in another order: what may change places does, and nothing is lost."""

from collections import Counter

import numpy as np
import pytest

from smolvlm2.loading.turn_orders import draw_order, movable_pairs, reorder_turns, turn_key

IMAGE, VIDEO = {"type": "image"}, {"type": "video"}


def said(role, *content):
    parts = [{"type": "text", "text": part} if isinstance(part, str) else part for part in content]
    return {"role": role, "content": parts}


def dialogue(pairs, *media, system=0):
    messages = [said("system", f"rule {number}") for number in range(system)]
    for number in range(pairs):
        shown = media if number == 0 else ()
        messages += [said("user", *shown, f"q{number}"), said("assistant", f"a{number}")]
    return messages


@pytest.mark.parametrize("media", [(), (IMAGE,), (IMAGE, VIDEO, IMAGE)])
@pytest.mark.parametrize("system", [0, 2])
def test_pairs_move_and_rules_and_media_stay_in_front(media, system):
    messages = dialogue(9, *media, system=system)
    before = dialogue(9, *media, system=system)
    moved = reorder_turns(messages, turn_key("source", 3, 0))
    assert messages == before
    assert moved != messages
    assert moved[:system] == messages[:system]
    first, *others = moved[system:]
    assert tuple(first["content"][: len(media)]) == media
    assert all(part["type"] == "text" for message in others for part in message["content"])
    texts = [message["content"][-1]["text"] for message in moved[system:]]
    assert sorted(texts[::2]) == [f"q{number}" for number in range(9)]
    assert [text.replace("q", "a") for text in texts[::2]] == texts[1::2]


@pytest.mark.parametrize(
    "messages",
    [
        dialogue(1, IMAGE),
        [*dialogue(3), said("user", "and?")],
        [*dialogue(2), said("user", "one"), said("user", "two"), said("assistant", "three")],
        [*dialogue(2), said("user", "one"), said("user", "two")],
        [said("assistant", "hello"), *dialogue(3)],
        [said("assistant", "hello"), *dialogue(2), said("user", "and?")],
        [*dialogue(1), said("system", "rule"), said("assistant", "a"), *dialogue(2)],
        [*dialogue(1), said("system", "rule"), *dialogue(2)],
        [said("user", "see", IMAGE), said("assistant", "a"), *dialogue(2)],
        [said("user", IMAGE, "and", IMAGE, "?"), said("assistant", "a"), *dialogue(2)],
        [said("user", IMAGE), said("assistant", "a"), *dialogue(2)],
        [*dialogue(2, IMAGE), *dialogue(1, IMAGE)],
        [said("system", IMAGE, "rule"), *dialogue(3)],
        [said("user", "draw"), said("assistant", IMAGE, "a"), *dialogue(2)],
    ],
)
def test_what_hangs_on_its_place_is_left_as_it_is(messages):
    assert movable_pairs(messages)[1] == 0
    for row in range(20):
        assert reorder_turns(messages, turn_key("source", row, 0)) is messages


def test_no_key_is_the_published_order():
    messages = dialogue(5, IMAGE)
    assert turn_key("source", 3, None) is None
    assert reorder_turns(messages, None) is messages


def test_the_order_hangs_on_source_row_and_number():
    places = [("a", 0, 0), ("b", 0, 0), ("a", 1, 0), ("a", 0, 1)]
    orders = [tuple(draw_order(12, turn_key(*place))) for place in places]
    assert len(set(orders)) == 4
    assert orders == [tuple(draw_order(12, turn_key(*place))) for place in places]


def test_every_order_comes_equally_often():
    counts = Counter(tuple(draw_order(4, turn_key("source", row, 0))) for row in range(24_000))
    assert len(counts) == 24
    assert np.array(list(counts.values())) == pytest.approx(1000, abs=150)
