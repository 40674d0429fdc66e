"""The fixed strings of a SmolVLM prompt, and how numbers and times are spelled in it.

Source: ``docs/model.md``; equal to transformers' SmolVLM processor (tests/processing).
"""

from datetime import timedelta

TEMPLATE_VERSION = 1
"""Raised whenever the same conversation would give other ids: prepared geometry is keyed by it."""

BOS = "<|im_start|>"
END_OF_UTTERANCE = "<end_of_utterance>"
PAD = "<|im_end|>"
UNKNOWN = "<|endoftext|>"
FAKE = "<fake_token_around_image>"
GLOBAL_IMAGE = "<global-img>"
IMAGE = "<image>"

ROLES = ("system", "user", "assistant")
VIDEO_HEAD = "You are provided the following series of"
"""The part of a video's introduction that is the same for every clip."""
VIDEO_INTRO = VIDEO_HEAD + " {frames} frames from a {duration} [H:MM:SS] video.\n"
FRAME_STAMP = "\nFrame from {stamp}:"
VIDEO_OUTRO = "\n\n"

CHAT_TEMPLATE = (
    "<|im_start|>{% for message in messages %}{{message['role'] | capitalize}}"
    "{% if message['content'] is string %}{{': ' + message['content']}}{% else %}"
    "{% if message['content'][0]['type'] == 'image' %}{{':'}}{% else %}{{': '}}{% endif %}"
    "{% for line in message['content'] %}"
    "{% if line['type'] == 'text' %}{{line['text']}}"
    "{% elif line['type'] == 'image' %}{{ '<image>' }}"
    "{% elif line['type'] == 'video' %}{{ '<video>' }}{% endif %}"
    "{% endfor %}{% endif %}<end_of_utterance>\n{% endfor %}"
    "{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"
)
"""The Jinja text that checkpoints carry: an interface shared with transformers, whose own takes a
string as content since 5.24 and rendered it as nothing before;
this package never renders it (``template.encode_conversation`` builds ids from the structure)."""

_UNITS = """zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen
fifteen sixteen seventeen eighteen nineteen""".split()  # noqa: SIM905
_TENS = """zero ten twenty thirty forty fifty sixty seventy eighty ninety""".split()  # noqa: SIM905


def row_col(row: int, col: int) -> str:
    """Name of the tile at ``row``, ``col``, both counted from 1."""
    return f"<row_{row}_col_{col}>"


def number_words(number: int) -> str:
    """Spell a count as the released models saw it.

    Args:
        number: 0 to 999,999.

    Returns:
        British spelling: 121 is ``one hundred and twenty-one``.

    Raises:
        ValueError: The number is outside the range.

    Source:
        Equal to the package num2words, which transformers calls (tests/processing).

    >>> number_words(64), number_words(300), number_words(1001)
    ('sixty-four', 'three hundred', 'one thousand and one')
    """
    if not 0 <= number < 1_000_000:
        raise ValueError(f"number_words takes 0 to 999,999, found {number}")
    if number < 20:
        return _UNITS[number]
    if number < 100:
        tens, unit = divmod(number, 10)
        return _TENS[tens] + (f"-{_UNITS[unit]}" if unit else "")
    if number < 1000:
        hundreds, rest = divmod(number, 100)
        return f"{_UNITS[hundreds]} hundred" + (f" and {number_words(rest)}" if rest else "")
    thousands, rest = divmod(number, 1000)
    joint = " and " if rest < 100 else ", "
    return f"{number_words(thousands)} thousand" + (joint + number_words(rest) if rest else "")


def clock(seconds: float) -> str:
    """A frame's time as ``MM:SS``; the minutes run past an hour: 4800 s is ``80:00``."""
    return f"{int(seconds // 60):02d}:{int(seconds % 60):02d}"


def spoken_duration(seconds: float) -> str:
    """A clip's length as ``H:MM:SS``, whole seconds, rounded down; days are spelled out."""
    return str(timedelta(seconds=int(seconds)))


def clip_lead(frames: int, duration: float, first_stamp: float) -> str:
    """Text between ``VIDEO_HEAD`` and the first frame of a clip."""
    intro = VIDEO_INTRO.format(frames=number_words(frames), duration=spoken_duration(duration))
    return intro[len(VIDEO_HEAD) :] + FRAME_STAMP.format(stamp=clock(first_stamp))
