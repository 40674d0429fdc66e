from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from smolvlm2.errors import PromptError
from smolvlm2.processing.template import (
    ImageLayout,
    VideoLayout,
    encode_conversation,
    render_text,
)
from smolvlm2.processing.tokenizer import Tokenizer

IMAGE, VIDEO = {"type": "image"}, {"type": "video"}


def text(value: str) -> dict[str, str]:
    return {"type": "text", "text": value}


def user(*content: Any) -> dict[str, Any]:
    return {"role": "user", "content": list(content)}


def assistant(answer: str) -> dict[str, Any]:
    return {"role": "assistant", "content": [text(answer)]}


CONVERSATIONS = {
    "text": ([user(text("Hi there")), assistant("A cat, 12 years\n\n old")], []),
    "system": ([{"role": "system", "content": [text("Be brief.\n")]}, user(text("Why?"))], []),
    "single tile": ([user(IMAGE, text("What?")), assistant("One")], [ImageLayout(0, 0)]),
    "split": ([user(IMAGE, text("\n What?")), assistant("One")], [ImageLayout(3, 4)]),
    "wide": ([user(text("See "), IMAGE, text(" here")), assistant("1")], [ImageLayout(1, 2)]),
    "beyond 6 x 6": ([user(IMAGE, text("What?"))], [ImageLayout(8, 7)]),
    "images": (
        [user(IMAGE, IMAGE, text("Differ?")), assistant("Yes"), user(text("And "), IMAGE)],
        [ImageLayout(2, 2), ImageLayout(0, 0), ImageLayout(2, 1)],
    ),
    "video": (
        [user(VIDEO, text("What?")), assistant("A dog")],
        [VideoLayout([0.0, 1.0, 2.0], 3.2)],
    ),
    "long video": (
        [user(text("Look:\n"), VIDEO, text("\nWhat?")), assistant("")],
        [VideoLayout([1.0 + 120.5 * i for i in range(64)], 7800.4)],
    ),
    "videos": (
        [user(VIDEO, VIDEO, text("  Same?"))],
        [VideoLayout([0.0], 0.4), VideoLayout([0.0, 0.5], 1.0)],
    ),
    "image and video": (
        [user(IMAGE, text("and"), VIDEO, text("?")), assistant("No")],
        [ImageLayout(2, 2), VideoLayout([0.0, 9.9], 10.0)],
    ),
}


def _their_text(theirs: Any, messages: Any, media: Any, generate: bool) -> str:
    """transformers' own pieces, put together: its chat template, then its expansion of each marker.

    Its video processor needs torchvision, so frames and metadata are handed to it directly.
    """
    import torch
    from transformers.video_utils import VideoMetadata

    prompt = theirs.apply_chat_template(messages, add_generation_prompt=generate)
    for layout in media:
        if isinstance(layout, ImageLayout):
            rows_cols = {"rows": [[layout.rows]], "cols": [[layout.cols]]}
            expanded = theirs.replace_image_token(rows_cols, 0).replace("<image>", "\0")
            prompt = prompt.replace("<image>", expanded, 1)
        else:
            metadata = VideoMetadata(
                total_num_frames=10**9,
                fps=1000.0,
                duration=layout.duration,
                frames_indices=[round(1000 * seconds) for seconds in layout.timestamps],
            )
            inputs = {
                "pixel_values": torch.empty(1, len(layout.timestamps), 0),
                "video_metadata": [metadata],
            }
            expanded = theirs.replace_video_token(inputs, 0).replace("<image>", "\0")
            prompt = prompt.replace("<video>", expanded, 1)
    return prompt.replace("\0", "<image>")


@pytest.mark.parametrize("generate", [False, True])
@pytest.mark.parametrize("name", CONVERSATIONS)
def test_text_and_ids_equal_transformers(
    name: str, generate: bool, tokenizer: Tokenizer, their_processor: Any
):
    messages, media = CONVERSATIONS[name]
    prompt = _their_text(their_processor, messages, media, generate)
    assert render_text(messages, media, 4, generate) == prompt
    ours = encode_conversation(messages, media, tokenizer, 4, generate)
    assert ours.input_ids.tolist() == their_processor.tokenizer(prompt)["input_ids"]
    assert ours.input_ids.dtype == np.int32
    assert ours.supervised.shape == ours.input_ids.shape


def test_markers_stay_where_no_layouts_are_given():
    messages = [user(IMAGE, text("a"), VIDEO)]
    assert render_text(messages) == "<|im_start|>User:<image>a<video><end_of_utterance>\n"


def test_plain_string_content_is_text(tokenizer: Tokenizer):
    plain = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "A"}]
    listed = [user(text("Hi")), assistant("A")]
    ours, same = (encode_conversation(m, [], tokenizer, 4) for m in (plain, listed))
    assert ours.input_ids.tolist() == same.input_ids.tolist()
    assert ours.supervised.tolist() == same.supervised.tolist()


def _supervised_runs(messages: Any, media: Any, tokenizer: Tokenizer) -> list[str]:
    encoded = encode_conversation(messages, media, tokenizer, 4)
    edges = np.flatnonzero(np.diff(np.r_[False, encoded.supervised, False].astype(int)))
    return [
        tokenizer.decode(encoded.input_ids[a:b], skip_special_tokens=False)
        for a, b in edges.reshape(-1, 2)
    ]


@pytest.mark.parametrize("name", CONVERSATIONS)
def test_exactly_the_answers_are_supervised(name: str, tokenizer: Tokenizer):
    messages, media = CONVERSATIONS[name]
    answers = [m["content"][0]["text"] for m in messages if m["role"] == "assistant"]
    assert _supervised_runs(messages, media, tokenizer) == [
        f" {answer}<end_of_utterance>" for answer in answers
    ]


NASTY = ["<end_of_utterance>\nAssistant:", "<image>", "User:", "\n\nAssistant: ", "<row_1_col_1>"]
PIECES = st.lists(st.one_of(st.sampled_from(NASTY), st.text(max_size=6)), max_size=4).map("".join)


@given(st.lists(st.tuples(PIECES, PIECES), min_size=1, max_size=3))
def test_labels_never_follow_the_text(tokenizer: Tokenizer, pairs: list[tuple[str, str]]):
    messages = [m for q, a in pairs for m in (user(text(q)), assistant(a))]
    encoded = encode_conversation(messages, [], tokenizer, 4)
    special = tokenizer.special
    ends = encoded.input_ids == special.end_of_utterance
    assert ends.sum() == len(messages)
    assert encoded.supervised[ends].tolist() == [False, True] * len(pairs)
    assert (encoded.input_ids == special.image).sum() == 0
    assert _supervised_runs(messages, [], tokenizer) == [
        f" {a}<end_of_utterance>".encode("utf-8", "replace").decode() for _, a in pairs
    ]


def test_media_in_an_answer_are_not_supervised(tokenizer: Tokenizer):
    messages = [
        user(text("Draw")),
        {"role": "assistant", "content": [IMAGE, text("Here"), VIDEO, text("\nDone")]},
    ]
    media = [ImageLayout(0, 0), VideoLayout([0.0], 1.0)]
    runs = _supervised_runs(messages, media, tokenizer)
    assert runs[0] == "Here"
    assert runs[-1].endswith("Done<end_of_utterance>")
    assert not any("<image>" in run or "Frame" in run for run in runs)


@pytest.mark.parametrize(
    ("messages", "media", "match"),
    [
        ([], [], "conversation is empty"),
        ("hello", [], "conversation is a str; expected a list"),
        (["hello"], [], "message 0 is a str; expected a mapping"),
        ([{"role": "tool", "content": "x"}], [], "message 0 has role 'tool'; expected one of"),
        ([user(text("a")), {"role": "user"}], [], r"message 1 \(user\) has content None"),
        ([user()], [], r"message 0 \(user\) has content \[\]"),
        ([user({"type": "audio"})], [], r"message 0 \(user\), item 0 has type 'audio'"),
        ([user("a")], [], r"item 0 has type None; expected 'text'"),
        ([user({"type": "text"})], [], "item 0 has text None; expected a string"),
        ([user(IMAGE, IMAGE)], [ImageLayout(0, 0)], "item 1 is image number 2 but .* 1 media"),
        ([user(text("a"))], [ImageLayout(0, 0)], "has 0 image and video markers but 1 media"),
        ([user(VIDEO)], [ImageLayout(0, 0)], "is of type video but medium 1 is of type image"),
        ([user(VIDEO)], [VideoLayout([], 1.0)], "the video has no frames"),
    ],
)
def test_malformed_conversations_are_rejected_by_position(
    messages: Any, media: Any, match: str, tokenizer: Tokenizer
):
    with pytest.raises(PromptError, match=match):
        encode_conversation(messages, media, tokenizer, 4)
