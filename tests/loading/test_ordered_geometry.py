"""Token columns of reordered turns are those that a tokenizer counts."""

from types import SimpleNamespace

import numpy as np
import pytest

from smolvlm2.data.geometry import ROLES, Geometry
from smolvlm2.loading import ordered_geometry
from smolvlm2.loading.ordered_geometry import geometry_in_orders
from smolvlm2.loading.turn_orders import movable_pairs, reorder_turns, turn_key
from smolvlm2.processing.lengths import turn_tokens
from smolvlm2.processing.template import ImageLayout, VideoLayout, encode_conversation
from smolvlm2.processing.tokenizer import extend_for_images
from smolvlm2.processing.tokenizer_training import train_base_tokenizer

START, ORDERS, SEED = 40, 3, 5
MEDIA = {"image": ImageLayout(0, 0), "video": VideoLayout([0.0, 1.0], 2.0)}
WORDS = [
    "Which",
    "How many ",
    "In the ",
    "digit",
    " is",
    "\n",
    "\n\n",
    " ",
    "7",
    "User:",
    "<image>",
    "You are",
    "é",
    ".",
    "'",
]


def draw_text(draw):
    return "".join(draw.choice(WORDS, draw.integers(0, 7)))


def draw_conversation(draw):
    """Mostly what may be reordered; sometimes media elsewhere, or roles that do not alternate."""
    pairs = int(draw.integers(1, 7))
    roles = ["system"] * int(draw.integers(0, 3)) + ["user", "assistant"] * pairs
    if draw.random() < 0.15:
        roles.insert(int(draw.integers(len(roles))), str(draw.choice(ROLES)))
    messages = [
        {"role": role, "content": [{"type": "text", "text": draw_text(draw)}]} for role in roles
    ]
    question = messages[roles.index("user")]["content"]
    for _ in range(int(draw.integers(0, 3))):
        question.insert(0, {"type": str(draw.choice(list(MEDIA)))})
    if draw.random() < 0.3:
        place = int(draw.integers(len(messages)))
        content = messages[place]["content"]
        content.insert(int(draw.integers(len(content) + 1)), {"type": "image"})
    if draw.random() < 0.2:
        question.append({"type": "text", "text": draw_text(draw)})
    return messages


def geometry_of(conversations, tokenizer):
    turns = [turn_tokens(messages, tokenizer) for messages in conversations]
    media = [
        [
            number
            for number, message in enumerate(messages)
            for part in message["content"]
            if part["type"] != "text"
        ]
        for messages in conversations
    ]
    roles = [ROLES.index(message["role"]) for messages in conversations for message in messages]
    places = np.array([place for each in media for place in each], dtype=np.int32)
    none = np.zeros(len(places))
    return Geometry(
        media_offsets=np.cumsum([0, *map(len, media)]),
        media_message=places,
        **{f"media_{name}": none for name in ("kind", "width", "height", "duration", "fps")},
        media_frames=none,
        message_offsets=np.cumsum([0, *map(len, conversations)]),
        message_role=np.array(roles, dtype=np.uint8),
        message_text_tokens=np.concatenate([each.text for each in turns]),
        message_supervised=np.concatenate([each.supervised for each in turns]),
        **{f"row_{name}": np.zeros(len(conversations)) for name in ("modality", "flags", "subset")},
    )


def manifest_of(conversations):
    return SimpleNamespace(
        source="drawn", messages=lambda rows: [conversations[row - START] for row in rows]
    )


@pytest.fixture(scope="module")
def drawn(make_reader):
    draw = np.random.default_rng(SEED)
    conversations = [draw_conversation(draw) for _ in range(200)]
    conversations.append([{"role": "system", "content": [{"type": "text", "text": "alone"}]}])
    tokenizer = make_reader()[1].processor.tokenizer
    return conversations, geometry_of(conversations, tokenizer), tokenizer


def encoded_lengths(messages, tokenizer):
    """Tokens of a conversation as it is read, media included, and supervised ones."""
    layouts = [MEDIA[kind] for kind in media_of(messages)]
    found = encode_conversation(messages, layouts, tokenizer, 1)
    return len(found.input_ids), int(found.supervised.sum())


def media_of(messages):
    kinds = [part["type"] for message in messages for part in message["content"]]
    return [kind for kind in kinds if kind != "text"]


def tokens_of_media(tokenizer):
    """What each kind of medium adds to the tokens of its message."""
    found = {}
    for kind in MEDIA:
        alone = [{"role": "user", "content": [{"type": kind}, {"type": "text", "text": "."}]}]
        counted = turn_tokens(alone, tokenizer).text.sum()
        found[kind] = encoded_lengths(alone, tokenizer)[0] - int(counted)
    return found


@pytest.mark.parametrize("batch", [7, 256])
def test_every_order_has_the_tokens_that_it_is_read_with(drawn, monkeypatch, batch):
    monkeypatch.setattr(ordered_geometry, "BATCH_ROWS", batch)
    conversations, part, tokenizer = drawn
    found = geometry_in_orders(part, manifest_of(conversations), START, tokenizer, ORDERS)
    assert len(found) == ORDERS
    added = tokens_of_media(tokenizer)
    moved = 0
    for order, geometry in enumerate(found):
        for row, messages in enumerate(conversations):
            reordered = reorder_turns(messages, turn_key("drawn", START + row, order))
            moved += reordered != messages
            begin = int(part.message_offsets[row])
            for kept, message in enumerate(reordered, 1):
                if message["role"] != "assistant":
                    continue  # a conversation ends with an answer
                here = slice(begin, begin + kept)
                tokens = int(geometry.message_text_tokens[here].sum())
                tokens += sum(added[kind] for kind in media_of(reordered[:kept]))
                supervised = int(geometry.message_supervised[here].sum())
                assert (tokens, supervised) == encoded_lengths(reordered[:kept], tokenizer)
    assert moved > 200
    movable = sum(movable_pairs(messages)[1] > 0 for messages in conversations)
    assert 50 < movable < 150  # both kinds are there


def test_a_word_that_goes_on_behind_ascii_is_counted_as_a_whole(tmp_path):
    train_base_tokenizer(["See na\u00efve na\u00efve"] * 9, tmp_path, vocab_size=300)
    tokenizer = extend_for_images(tmp_path)

    def count(text):
        return len(tokenizer.encode_text(text))

    added = [count(f"User:{text}") - count(f"User: {text}") for text in ("na\u00efve it", "na it")]
    assert added[0] != added[1]  # else nothing is tested
    asked = [[{"type": "image"}, {"type": "text", "text": "na it?"}]]
    asked += [[{"type": "text", "text": f"na\u00efve {word}?"}] for word in ("it", "this")]
    answer = {"role": "assistant", "content": [{"type": "text", "text": "Yes."}]}
    messages = [each for q in asked for each in ({"role": "user", "content": q}, answer)]
    part = geometry_of([messages], tokenizer)
    found = geometry_in_orders(part, manifest_of([messages]), START, tokenizer, 8)
    for order, geometry in enumerate(found):
        expected = turn_tokens(reorder_turns(messages, turn_key("drawn", START, order)), tokenizer)
        assert geometry.message_text_tokens.tolist() == expected.text.tolist()


def test_the_published_order_is_the_geometry_itself(drawn):
    conversations, part, tokenizer = drawn
    (found,) = geometry_in_orders(part, manifest_of(conversations), START, tokenizer, 0)
    assert found is part


def test_rows_without_media_are_not_read(drawn):
    conversations, _, tokenizer = drawn
    plain = [
        messages
        for messages in conversations
        if all(part["type"] == "text" for message in messages for part in message["content"])
    ]
    asked = []
    manifest = SimpleNamespace(source="drawn", messages=lambda rows: asked.append(rows) or [])
    part = geometry_of(plain, tokenizer)
    found = geometry_in_orders(part, manifest, 0, tokenizer, 1)[0]
    assert asked == []
    assert not np.array_equal(found.message_text_tokens, part.message_text_tokens)
