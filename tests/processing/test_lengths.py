import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import models, pre_tokenizers, trainers

from smolvlm2.errors import CheckpointError
from smolvlm2.processing.images import ImageSettings, tile_grid
from smolvlm2.processing.lengths import LengthModel, turn_tokens, turn_tokens_of_many
from smolvlm2.processing.template import ImageLayout, VideoLayout, encode_conversation
from smolvlm2.processing.tokenizer import Tokenizer, extend_for_images
from smolvlm2.processing.video import VideoSettings, sample_frames

TILE, TOKENS = 32, 4
IMAGE = ImageSettings(longest_edge=288)
VIDEO = VideoSettings(max_frames=12)

# Spaces, newlines, digits and quotes are where a merge could cross a boundary.
EDGY = st.text(alphabet="aUY yo\n\t 0:.'<>é漢", max_size=10)
TEXT = st.one_of(EDGY, st.sampled_from(["<image>", "User: ", "You are provided", "\n\n", ""]))
ITEM = st.one_of(
    st.tuples(st.just("text"), TEXT),
    st.tuples(st.just("image"), st.tuples(st.integers(1, 2000), st.integers(1, 2000))),
    st.tuples(
        st.just("video"),
        st.tuples(st.floats(0.04, 200_000), st.floats(1, 60), st.integers(1, 12)),
    ),
)
MESSAGE = st.tuples(
    st.sampled_from(["user", "assistant", "system"]), st.lists(ITEM, min_size=1, max_size=4)
)


def _conversation(drawn: Any) -> tuple[list[dict[str, Any]], list[Any], list[tuple[int, Any]]]:
    """Messages, layouts, and (message, medium) pairs as the planner would know them."""
    messages: list[dict[str, Any]] = []
    layouts: list[Any] = []
    media = []
    for number, (role, items) in enumerate(drawn):
        content = []
        for kind, value in items:
            content.append({"type": kind, **({"text": value} if kind == "text" else {})})
            if kind == "image":
                rows, cols = tile_grid(*value, TILE, IMAGE)
                layouts.append(ImageLayout(int(rows), int(cols)))
            elif kind == "video":
                duration, fps, _ = value
                total = max(round(duration * fps), 1)
                value = (duration, fps, total)
                chosen = sample_frames(total, fps, duration, VIDEO)
                layouts.append(VideoLayout([frame / fps for frame in chosen], duration))
            if kind != "text":
                media.append((number, (kind, value)))
        messages.append({"role": role, "content": content})
    return messages, layouts, media


@pytest.fixture(scope="module")
def model(tokenizer: Tokenizer) -> LengthModel:
    return LengthModel(tokenizer, TOKENS, IMAGE, VIDEO, tile_size=TILE)


@settings(max_examples=300, deadline=None)
@given(st.lists(MESSAGE, min_size=1, max_size=4))
def test_text_and_media_add_up_to_the_exact_length(
    tokenizer: Tokenizer, model: LengthModel, drawn: Any
):
    messages, layouts, media = _conversation(drawn)
    encoded = encode_conversation(messages, layouts, tokenizer, TOKENS)
    turns = turn_tokens(messages, tokenizer)
    total, tiles = int(turns.text.sum()), 0
    for _, (kind, value) in media:
        count = model.images if kind == "image" else model.videos
        medium_tiles, medium_tokens = count(*value)
        total += int(medium_tokens[0])
        tiles += int(medium_tiles[0])
    assert total == len(encoded.input_ids)
    assert tiles == sum(layout.tiles for layout in layouts)
    assert turns.supervised.sum() == encoded.supervised.sum()


@settings(max_examples=100, deadline=None)
@given(st.lists(MESSAGE, min_size=2, max_size=5), st.randoms(use_true_random=False))
def test_any_selection_and_order_of_turns_adds_up(
    tokenizer: Tokenizer, model: LengthModel, drawn: Any, random: Any
):
    kept = random.sample(range(len(drawn)), random.randint(1, len(drawn)))
    messages, _, _ = _conversation(drawn)
    selected, layouts, media = _conversation([drawn[number] for number in kept])
    turns = turn_tokens(messages, tokenizer)
    total = int(turns.text[kept].sum()) + (0 not in kept)
    for _, (kind, value) in media:
        total += int((model.images if kind == "image" else model.videos)(*value)[1][0])
    encoded = encode_conversation(selected, layouts, tokenizer, TOKENS)
    assert total == len(encoded.input_ids)
    assert turns.supervised[kept].sum() == encoded.supervised.sum()


@settings(max_examples=100, deadline=None)
@given(st.lists(st.lists(MESSAGE, min_size=1, max_size=4), max_size=6))
def test_many_conversations_at_once_equal_one_by_one(tokenizer: Tokenizer, drawn: Any):
    conversations = [_conversation(each)[0] for each in drawn]
    together = turn_tokens_of_many(conversations, tokenizer)
    assert len(together) == len(conversations)
    for conversation, counts in zip(conversations, together, strict=True):
        alone = turn_tokens(conversation, tokenizer)
        assert counts.text.tolist() == alone.text.tolist()
        assert counts.supervised.tolist() == alone.supervised.tolist()


def test_a_tokenizer_that_joins_an_answer_to_its_header_is_counted_token_by_token(
    tokenizer: Tokenizer,
):
    definition = json.loads(tokenizer._definition)
    definition["pre_tokenizer"]["pretokenizers"][1]["use_regex"] = False
    vocab, merges = definition["model"]["vocab"], definition["model"]["merges"]
    last = next(token for token, place in vocab.items() if place == len(vocab) - 1)
    vocab[":\u0120"] = vocab.pop(last)
    merges[:] = [[":", "\u0120"], *(pair for pair in merges if "".join(pair) != last)]
    joined = Tokenizer(json.dumps(definition))
    messages = [{"role": "assistant", "content": [{"type": "text", "text": "abc"}]}]
    # The token ": " begins in the header, so it is not supervised: a, b, c and the end token are.
    assert turn_tokens(messages, joined).supervised.tolist() == [4]
    encoded = encode_conversation(messages, [], joined, TOKENS)
    assert encoded.supervised.sum() == 4


def test_many_media_at_once_equal_one_by_one(model: LengthModel):
    generator = np.random.default_rng(0)
    sizes = generator.integers(1, 3000, (200, 2))
    edges = generator.choice([64, 128, 288], 200)
    together = model.images(sizes[:, 0], sizes[:, 1], edges)
    for row, ((width, height), edge) in enumerate(zip(sizes, edges, strict=True)):
        tiles, tokens = model.images(width, height, edge)
        assert (tiles[0], tokens[0]) == (together[0][row], together[1][row])
    durations = generator.uniform(0.1, 20_000, 200)
    rates = generator.uniform(5, 60, 200)
    totals = np.maximum((durations * rates).astype(int), 1)
    caps = generator.integers(1, 20, 200)
    frames, tokens = model.videos(durations, rates, totals, caps)
    for row in range(200):
        one = model.videos(durations[row], rates[row], totals[row], int(caps[row]))
        assert (one[0][0], one[1][0]) == (frames[row], tokens[row])
    assert (frames <= caps).all()


def test_no_media_give_empty_arrays(model: LengthModel):
    assert [len(part) for part in model.images([], [])] == [0, 0]
    assert [len(part) for part in model.videos([], [], [])] == [0, 0]


def test_a_tokenizer_that_joins_digits_is_refused(tokenizer: Tokenizer):
    definition = json.loads(tokenizer._definition)
    definition["pre_tokenizer"]["pretokenizers"] = definition["pre_tokenizer"]["pretokenizers"][1:]
    vocab, merges = definition["model"]["vocab"], definition["model"]["merges"]
    first = next(token for token, place in vocab.items() if place == len(vocab) - 1)
    vocab["00"] = vocab.pop(first)
    definition["model"]["merges"] = [pair for pair in merges if "".join(pair) != first]
    definition["model"]["merges"].insert(0, ["0", "0"])
    joined = Tokenizer(json.dumps(definition))
    with pytest.raises(CheckpointError, match="merges across digits"):
        LengthModel(joined, TOKENS, IMAGE, VIDEO, tile_size=TILE)


def test_a_tokenizer_that_joins_words_is_refused(tmp_path: Path):
    joined = tokenizers.Tokenizer(models.BPE())
    joined.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(True), pre_tokenizers.ByteLevel(False, use_regex=False)]
    )
    trainer = trainers.BpeTrainer(
        special_tokens=["<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    joined.train_from_iterator(["\nUser: a"] * 9, trainer)
    joined.save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(CheckpointError, match="merges across words"):
        LengthModel(extend_for_images(tmp_path), TOKENS, IMAGE, VIDEO, tile_size=TILE)
