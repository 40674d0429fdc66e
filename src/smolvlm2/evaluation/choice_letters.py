"""Which option an answer names: one reading by default, others' readings to compare with.

Extraction moves the score of a small model by as much as training does, so each reading is a
named rule (``rules.py``) and none of them is silently generous: what names no option is wrong.
"""

import re
from collections.abc import Iterator, Sequence
from string import ascii_uppercase

from smolvlm2.evaluation.vqa_answers import without_punctuation

_STRIPPED = ",.!?;:'\""
_PHRASES = (
    *(
        f"{article}{middle}"
        for middle in (
            "answer is", "correct answer is", "best answer is", "correct option is",
            "best option is", "choice is", "correct choice is",
        )
        for article in ("the ", "")
    ),
    "i choose", "i select", "i pick", "my answer is", "my choice is",
    "옵션", "정답은", "답은", "답:", "答案是", "答案为", "选", "答えは",
)  # fmt: skip
"""Words that announce an answer."""
_SHAPES = (("({})", 6), ("{}.", 5), ("{}:", 4), ("{})", 3), ("{} ", 2))
"""How a letter may be written, and how far that is trusted."""
_START, _END, _PHRASE = 10, 9, 7
_REFUSALS = (
    "Sorry, I can't help with images of people yet.",
    "I can't process this file.",
    "I'm sorry, but without the image provided",
    "Cannot determine the answer",
)
"""Answers that VLMEvalKit takes for a choice of nothing."""
_ANNOUNCED = re.compile(r"answer\s+is\s+\**([ABCD])", re.IGNORECASE)
"""Its second look; it reads the first letter of a word too: "the answer is a dog" names A."""


def letters(num_choices: int) -> str:
    """``ABC...`` for so many options.

    Raises:
        ValueError: Not between 1 and 26.
    """
    if not 1 <= num_choices <= len(ascii_uppercase):
        raise ValueError(f"num_choices is {num_choices}, expected 1 to {len(ascii_uppercase)}")
    return ascii_uppercase[:num_choices]


def extract_choice(text: str, num_choices: int) -> str:
    """The option that an answer names; "" where it names none.

    Capital letters only. The most trusted way of writing wins: a letter alone at the start, at
    the end, after words such as "the answer is", then ``(B)``, ``B.``, ``B:``, ``B)``, ``B`` and a
    space, and at last any such capital inside a word; within one way the last occurrence wins.

    Args:
        text: What the model said.
        num_choices: Options of the question; letters beyond them are not looked for.

    Source:
        lmms-eval 0.7.3, its shared extraction for multiple choice (tests/evaluation).
    """
    text = text.strip()
    for mark in _STRIPPED:
        text = text.strip(mark)
    if not text:
        return ""
    padded = f" {text} "
    options = letters(num_choices)
    found = [entry for entry in _written(padded, options) if entry[1] >= 0]
    found = found or [(0, padded.rfind(x), x) for x in options if x in padded]
    # max keeps the first of equals, as the reference's stable sort does.
    return max(found, key=lambda entry: entry[:2])[2] if found else ""


def _written(text: str, options: str) -> Iterator[tuple[int, int, str]]:
    """Trust, place and letter of every way in which an option is written."""
    lower, bare = text.lower(), text.strip()
    for shape, trust in _SHAPES:
        for letter in options:
            yield trust, text.rfind(shape.format(letter)), letter
    for phrase in _PHRASES:
        start = lower.find(phrase)
        if start >= 0:
            for letter in options:
                yield _PHRASE, text.find(letter, start + len(phrase)), letter
    for letter in options:
        if bare.startswith(letter) and not bare[1:2].isalpha():
            yield _START, 0, letter
        if bare.endswith(letter) and not bare[-2:-1].isalpha():
            yield _END, len(text) - 1, letter


def first_capital(text: str, num_choices: int = 4) -> str:
    """VLMEvalKit's reading for Video-MME: the first capital A to D after a few known openings.

    Two of its openings are glued together by a missing comma and never match; they are left so.
    """
    for opening in (
        "The best answer is", "The correct answer is", "The answer is", "The answer",
        "The best option isThe correct option is", "Best answer:Best option:", "Answer:",
        "Option:",
    ):  # fmt: skip
        text = text.replace(opening, "")
    found = re.search(f"[{letters(num_choices)}]", text)
    return found[0] if found else ""


def named_option(text: str, options: Sequence[str]) -> str:
    """VLMEvalKit's exact matching: one letter among the last words, else one option's own text.

    Returns:
        A letter; "Z", which is no option, where it sees a refusal; "" where it finds nothing.

    Source:
        VLMEvalKit e8e78f0, vlmeval/utils/matching_util.py, ``can_infer``.
    """
    if any(refusal in text for refusal in _REFUSALS):
        return "Z"
    known = letters(len(options))
    words = re.sub(r"[.()\[\],:;!*#{}]", " ", text).split()
    present = [letter for letter in known if letter in words]
    if len(present) == 1 and words.index(present[0]) > len(words) - 5:
        return present[0]
    if not present and "Z" in words:
        return "Z"
    announced = _ANNOUNCED.search(text)
    if announced and announced[1].upper() in known:
        return announced[1].upper()
    lower = text.lower()
    if len(lower) > 2 * sum(map(len, options)):
        return ""
    quoted = [x for x, option in zip(known, options, strict=True) if option.lower() in lower]
    return quoted[0] if len(quoted) == 1 else ""


def standalone_letter(text: str) -> str:
    """lmms-eval's reading for MVBench: ``A. ...``, else the first lone letter A to E, any case."""
    opening = re.match(r"([A-E])\.\s*.+$", text.strip(), re.IGNORECASE)
    if opening is None:
        bare = without_punctuation(text.replace("\n", " ").replace("\t", " ").strip()).lower()
        opening = re.search(r"\b([A-E])\b", bare, re.IGNORECASE)
    return opening[1].upper() if opening else ""
