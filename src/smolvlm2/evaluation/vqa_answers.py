"""The normal form of a short answer that TextVQA's accuracy compares.

Source: the rules of the EvalAI server as lmms-eval 0.7.3 applies them; every one is held by
tests/evaluation/data/metric_vectors.json.
"""

import re

MARKS = tuple(';/[]"{}()=+\\_-><@`,?!')
"""Punctuation that is taken out; other marks (``: % $ # & * ' .``) stay."""
NUMBERS = {
    word: str(value)
    for value, word in enumerate(
        ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
    )
} | {"none": "0"}
ARTICLES = frozenset(("a", "an", "the"))
_FULL_STOP = re.compile(r"\.(?!\d)")
_FULL_STOPS_TAKEN = 32
"""The reference passes a flag where a count belongs; an answer with more keeps the rest."""
_DIGIT_COMMA = re.compile(r"(?<=\d),+(?=\d)")

_CONTRACTED = """
ain't aren't can't could've couldn't didn't doesn't don't hadn't hasn't haven't he'd he's how'd
how'll how's isn't it'd it'll ma'am mightn't might've mustn't must've needn't not've o'clock
oughtn't shan't should've shouldn't somebody'll somebody's someone'd someone'll someone's
something'd something'll that's there'd there're there's they'd they'll they're they've wasn't
we've weren't what'll what're what's what've when's where'd where's where've who'd who'll who's
who've why'll why're why's won't would've wouldn't y'all you'd you'll you're you've
""".split()  # noqa: SIM905
_TWICE_CONTRACTED = """
couldn't've hadn't've he'd've it'd've mightn't've she'd've shouldn't've somebody'd've
someone'd've something'd've there'd've they'd've we'd've who'd've wouldn't've you'd've
""".split()  # noqa: SIM905


def _contractions() -> dict[str, str]:
    """Words with a missing apostrophe, and what they stand for.

    Of a word with two, either may be missing, but not both.
    """
    table = {word.replace("'", ""): word for word in _CONTRACTED}
    for word in _TWICE_CONTRACTED:
        stem, first, last = word.split("'")
        table[f"{stem}{first}'{last}"] = word
        table[f"{stem}'{first}{last}"] = word
    # Those that follow no rule.
    table |= {
        "twas": "'twas",
        "'ows'at": "'ow's'at",
        "somebody'd": "somebodyd",
        "yall'll": "y'all'll",
        "y'allll": "y'all'll",
        "yall'd've": "y'all'd've",
        "y'alld've": "y'all'd've",
        "y'all'dve": "y'all'd've",
    }
    return table


CONTRACTIONS = _contractions()


def without_punctuation(text: str) -> str:
    """Take the ``MARKS`` and full stops out of a text.

    A mark beside a space, or any mark where a comma stands between digits, leaves nothing behind;
    elsewhere it leaves a space. A full stop before a digit stays.
    """
    found = text
    digit_comma = _DIGIT_COMMA.search(text) is not None
    for mark in MARKS:
        joined = digit_comma or f"{mark} " in text or f" {mark}" in text
        found = found.replace(mark, "" if joined else " ")
    return _FULL_STOP.sub("", found, count=_FULL_STOPS_TAKEN)


def normalise_vqa_answer(text: str) -> str:
    """An answer as TextVQA compares it.

    >>> normalise_vqa_answer("Two of the dog's, dont ask.")
    "2 of dog 's don't ask"
    """
    text = text.lower().replace(",", "").replace("?", "").replace("'s", " 's")
    text = without_punctuation(text.strip().replace("\n", " ").replace("\t", " ").strip())
    words = (NUMBERS.get(word, word) for word in text.split())
    return " ".join(CONTRACTIONS.get(word, word) for word in words if word not in ARTICLES)
