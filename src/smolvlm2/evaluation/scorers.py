"""Scorers: pure functions of a prediction and its references, each between 0 and 1.

They follow their references to the letter, oddities included. The house rules that stand above
them (an empty answer is wrong, every question counts) are applied where answers are scored.
"""

from collections.abc import Sequence

from smolvlm2.evaluation.choice_letters import extract_choice
from smolvlm2.evaluation.vqa_answers import normalise_vqa_answer

__all__ = [
    "anls",
    "edit_distance",
    "exact_match",
    "extract_choice",
    "normalise_answer",
    "relaxed_accuracy",
    "vqa_accuracy",
]

ANLS_THRESHOLD = 0.5
"""Similarity below which an answer counts as wrong."""
RELATIVE_CHANGE = 0.05
"""How far a number may lie from its target, as a share of the target."""
MATCHES_FOR_FULL_SCORE = 3
"""Other annotators who must have given the same answer."""


def normalise_answer(text: str) -> str:
    """Lower case, single spaces, no space or full stop at the ends.

    >>> normalise_answer("  To the  Left. ")
    'to the left'
    """
    return " ".join(text.lower().split()).rstrip(".").rstrip()


def exact_match(prediction: str, references: Sequence[str]) -> float:
    """1 when the prediction equals any reference after ``normalise_answer``, else 0.

    An empty prediction never matches.
    """
    found = normalise_answer(prediction)
    return float(bool(found) and any(found == normalise_answer(text) for text in references))


def edit_distance(a: str, b: str) -> int:
    """Fewest insertions, deletions and substitutions of code points that turn ``a`` into ``b``.

    >>> edit_distance("kitten", "sitting")
    3
    """
    if len(a) < len(b):
        a, b = b, a
    row = list(range(len(b) + 1))
    for i, left in enumerate(a, start=1):
        diagonal, row[0] = row[0], i
        for j, right in enumerate(b, start=1):
            cost = diagonal + (left != right)
            diagonal = row[j]
            row[j] = min(cost, diagonal + 1, row[j - 1] + 1)
    return row[-1]


def anls(prediction: str, references: Sequence[str], *, strict: bool = False) -> float:
    """Average normalised Levenshtein similarity of one question: the best over its references.

    Case and runs of white space do not count. A similarity below one half counts as 0.

    Args:
        prediction: What the model said.
        references: Accepted answers.
        strict: Follow the published definition: exactly one half counts as 0 too, and lengths are
            those of the compared strings. Otherwise lengths are those of the raw strings, as in
            lmms-eval and VLMEvalKit.

    Returns:
        0, or 0.5 to 1 (over 0.5 if ``strict``).

    Source:
        arXiv:1905.13648, section 4; lmms-eval 0.7.3; strict: the package anls 0.0.2.
    """
    found = " ".join(prediction.lower().split())
    best = 0.0
    for reference in references:
        wanted = " ".join(reference.lower().split())
        pair = (found, wanted) if strict else (prediction, reference)
        length = max(len(text.upper()) for text in pair)  # in capitals: "ß" counts as two
        distance = edit_distance(found, wanted) / length if length else 0.0
        if strict and distance >= ANLS_THRESHOLD:
            continue
        best = max(best, 1 - distance)
    return best if best >= ANLS_THRESHOLD else 0.0


def vqa_accuracy(prediction: str, answers: Sequence[str]) -> float:
    """Soft accuracy against several annotators: how many of the others said the same.

    Args:
        prediction: What the model said.
        answers: One per annotator, usually ten. Each is left out in turn; three equal answers
            among the rest give full score. A right answer may score less than 1.

    Source:
        The VQA challenge's formula with the EvalAI normal form, as in lmms-eval 0.7.3.
    """
    if not answers:
        return 0.0
    found = normalise_vqa_answer(prediction)
    matches = [normalise_vqa_answer(answer) == found for answer in answers]
    total = sum(matches)
    shares = (min(1.0, (total - match) / MATCHES_FOR_FULL_SCORE) for match in matches)
    return sum(shares) / len(answers)


def relaxed_accuracy(prediction: str, target: str) -> float:
    """1 where a number lies within 5 % of its target, or a text equals it but for case.

    A percent sign divides by 100, on either side alone. A target of 0, and what Python's ``float``
    does not read (``1,000``, ``$5``), are compared as text; text is not stripped.

    Source:
        arXiv:2203.10244, section 5.1, as in lmms-eval 0.7.3.
    """
    found, wanted = _number(prediction), _number(target)
    if found is None or not wanted:
        return float(prediction.lower() == target.lower())
    return float(abs(found - wanted) / abs(wanted) <= RELATIVE_CHANGE)


def _number(text: str) -> float | None:
    try:
        return float(text.rstrip("%")) / 100 if text.endswith("%") else float(text)
    except ValueError:
        return None
