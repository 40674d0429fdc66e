"""How a question becomes a conversation, and the prompts that other evaluators build."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from smolvlm2.evaluation.benchmark import Benchmark, Prompt, PromptStyle
from smolvlm2.evaluation.choice_letters import letters
from smolvlm2.evaluation.published_files import fill
from smolvlm2.evaluation.questions import Question
from smolvlm2.evaluation.subtitles import parse_subtitles, shown_at
from smolvlm2.processing import prompt_strings as strings
from smolvlm2.processing.template import (
    ImageLayout,
    MediaLayout,
    TextRun,
    VideoLayout,
    encode_conversation,
    image_block,
)
from smolvlm2.processing.tokenizer import Tokenizer

NO_SUBTITLES = "No subtitles available"
"""What stands for the subtitles of a video that has none."""
VLMEVALKIT_SYSTEM = "pay attention to the video and answer the question"
VLMEVALKIT_LEAD = "Here are some frames sampled from a video:\n"


def conversation(
    question: Question,
    benchmark: Benchmark,
    style: PromptStyle,
    timestamps: Sequence[float] | None = None,
) -> list[dict[str, Any]]:
    """The chat messages of a question; media are bare ``{"type": ...}`` items, in order.

    Args:
        question: What is asked.
        benchmark: For its prompts.
        style: Whose prompt.
        timestamps: Seconds of the frames that are shown: subtitles are those on screen then.
    """
    prompt = benchmark.prompt(style)
    if style == "native" and not benchmark.prompts:
        return _own_messages(question, benchmark.prompt_suffix)
    content: list[dict[str, Any]] = [{"type": medium.kind} for medium in question.media]
    text = question_text(question, prompt, timestamps)
    turns: list[dict[str, Any]] = []
    if prompt.system is not None:
        turns.append({"role": "system", "content": [{"type": "text", "text": prompt.system}]})
    turns.append({"role": "user", "content": [*content, {"type": "text", "text": text}]})
    return turns


def question_text(
    question: Question, prompt: Prompt, timestamps: Sequence[float] | None = None
) -> str:
    """What the user says after the medium."""
    lines = question.option_lines or tuple(
        fill(prompt.option, {"letter": letter, "text": text})
        for letter, text in zip(letters(len(question.choices) or 1), question.choices, strict=False)
    )
    shown = NO_SUBTITLES
    if question.subtitles is not None:
        found = question.subtitles.open()
        data = found if isinstance(found, bytes) else found.read_bytes()
        shown = "\n".join(shown_at(parse_subtitles(data), timestamps or ())) or NO_SUBTITLES
    return fill(
        prompt.text,
        {
            "question": question.text,
            "question_and_options": question.as_published or "\n".join([question.text, *lines]),
            "question_capitalised": question.text.capitalize(),
            "options": "\n".join(lines),
            "subtitles": shown,
        },
    )


def encode_prompt(
    messages: Sequence[Mapping[str, Any]],
    layouts: Sequence[MediaLayout],
    tokenizer: Tokenizer,
    tokens_per_tile: int,
    wrapper: str,
) -> np.ndarray:
    """Ids of a prompt that ends with ``Assistant:``, int32 ``(L,)``."""
    if wrapper == "vlmevalkit_video" and isinstance(layouts[0], VideoLayout):
        return _vlmevalkit_video(messages, layouts[0], tokenizer, tokens_per_tile)
    return encode_conversation(messages, layouts, tokenizer, tokens_per_tile, True).input_ids


def _own_messages(question: Question, suffix: str) -> list[dict[str, Any]]:
    turns = []
    for message in question.messages:
        content = message["content"]
        items = [{"type": "text", "text": content}] if isinstance(content, str) else content
        turns.append({**message, "content": list(items)})
    if suffix:
        turns[-1]["content"].append({"type": "text", "text": f"\n{suffix}"})
    return turns


def _vlmevalkit_video(
    messages: Sequence[Mapping[str, Any]],
    layout: VideoLayout,
    tokenizer: Tokenizer,
    tokens_per_tile: int,
) -> np.ndarray:
    """The string of VLMEvalKit's SmolVLM2 class, spaces and second start token included.

    Each frame is one tile, named by its time. Source: benchmarks rendered by that class at commit
    e8e78f0 (docs/decisions/011-evaluation.md).
    """
    spoken = {turn["role"]: turn["content"][-1]["text"] for turn in messages}
    special = tokenizer.special
    frame = image_block(ImageLayout(0, 0), tokenizer, tokens_per_tile)
    run = TextRun(tokenizer)
    run.add_ids([special.bos])
    run.add_text(f"System: {spoken.get('system', VLMEVALKIT_SYSTEM)} ", False)
    run.add_ids([special.end_of_utterance])
    run.add_text("\n ", False)
    run.add_ids([special.bos])
    run.add_text(f"User: {VLMEVALKIT_LEAD}", False)
    for seconds in layout.timestamps:
        run.add_text(f" Frame from {strings.clock(seconds)}: ", False)
        run.add_ids(frame)
    run.add_text(f" \n {spoken['user']} ", False)
    run.add_ids([special.end_of_utterance])
    run.add_text(" \nAssistant:", False)
    return run.finish().input_ids
