import jinja2
import pytest
from num2words import num2words

from smolvlm2.processing import prompt_strings


def test_numbers_are_spelled_like_num2words():
    numbers = [*range(3000), 9999, 10000, 12345, 100000, 999999]
    assert [prompt_strings.number_words(n) for n in numbers] == [num2words(n) for n in numbers]


def test_numbers_out_of_range_are_rejected():
    with pytest.raises(ValueError, match="0 to 999,999, found 1000000"):
        prompt_strings.number_words(1_000_000)
    with pytest.raises(ValueError, match="found -1"):
        prompt_strings.number_words(-1)


@pytest.mark.parametrize(
    ("seconds", "stamp"), [(0.0, "00:00"), (59.99, "00:59"), (61, "01:01"), (4800, "80:00")]
)
def test_minutes_run_past_an_hour(seconds: float, stamp: str):
    assert prompt_strings.clock(seconds) == stamp


def test_durations_are_cut_to_whole_seconds_and_days_are_spelled():
    assert prompt_strings.spoken_duration(3.99) == "0:00:03"
    assert prompt_strings.spoken_duration(90061) == "1 day, 1:01:01"


def text(value):
    return {"type": "text", "text": value}


CONVERSATIONS = (
    [{"role": "user", "content": [text("Hi "), text("there")]}],
    [{"role": "user", "content": [{"type": "image"}, text("What?")]}],
    [{"role": "user", "content": [text("Before "), {"type": "image"}, text(" after")]}],
    [
        {"role": "system", "content": [text("Be brief.")]},
        {"role": "user", "content": [{"type": "video"}, text("Where?")]},
        {"role": "assistant", "content": [text("Here.")]},
    ],
)


@pytest.mark.parametrize("messages", CONVERSATIONS)
@pytest.mark.parametrize("add", [True, False])
def test_the_template_renders_what_transformers_own_renders(messages, add):
    from transformers.models.smolvlm import processing_smolvlm as theirs

    ours, published = (
        jinja2.Template(template, keep_trailing_newline=True)
        for template in (prompt_strings.CHAT_TEMPLATE, theirs.DEFAULT_CHAT_TEMPLATE)
    )
    inputs = {"messages": messages, "add_generation_prompt": add}
    assert ours.render(**inputs) == published.render(**inputs)


def test_the_template_takes_a_string_as_content():
    template = jinja2.Template(prompt_strings.CHAT_TEMPLATE)
    rendered = template.render(messages=[{"role": "user", "content": "Hi"}])
    assert rendered.startswith("<|im_start|>User: Hi<end_of_utterance>")


def test_strings_equal_transformers():
    from transformers.models.smolvlm import processing_smolvlm as theirs

    assert (
        prompt_strings.VIDEO_INTRO.replace("{frames}", "{frame_count}").replace(
            "{duration}", "{video_duration}"
        )
        == theirs.DEFAULT_VIDEO_INTRO
    )
    assert (
        prompt_strings.FRAME_STAMP.replace("{stamp}", "{timestamp}")
        == theirs.FRAME_TIMESTAMP_MESSAGE
    )
    assert theirs.DEFAULT_MEDIA_OUTTRO == prompt_strings.VIDEO_OUTRO
