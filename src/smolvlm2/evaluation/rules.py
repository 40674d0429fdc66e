"""Scoring rules by name: a scorer, and whose convention it follows.

The id of the rule that made a score is part of every result. A benchmark's headline has one rule;
rules of others that disagree with it are scored too and shown beside it.
"""

import functools
import importlib
from collections.abc import Callable, Mapping

from smolvlm2.errors import ConfigError
from smolvlm2.evaluation import choice_letters
from smolvlm2.evaluation.questions import Question
from smolvlm2.evaluation.scorers import anls, exact_match, relaxed_accuracy, vqa_accuracy

Rule = Callable[[str, Question], float]


def _choice(read: Callable[[str, Question], str]) -> Rule:
    return lambda prediction, question: float(
        bool(question.letter) and read(prediction, question) == question.letter
    )


def _capital_or_text(prediction: str, question: Question) -> str:
    letter = choice_letters.first_capital(prediction, 4)
    return letter or choice_letters.named_option(prediction, question.choices)


def _bracket_or_text(prediction: str, question: Question) -> str:
    """VLMEvalKit's reading for MLVU: what stands before the first ")", else its exact matching."""
    before, bracket, _ = prediction.partition(")")
    if (before[-1:] if bracket else prediction) == question.letter:
        return question.letter
    return choice_letters.named_option(prediction, question.choices)


def _vlmevalkit_mvbench(prediction: str, question: Question) -> float:
    """The first word lies in "(b)", or "(b)" in it: so an empty answer would be right."""
    first = prediction.lower().strip().split(" ")[0]
    option = f"({question.letter.lower()})"
    if first.replace(".", "") in option or option in first:
        return 1.0
    named = choice_letters.named_option(prediction, question.choices)
    return float(bool(named) and named == question.letter)


RULES: Mapping[str, Rule] = {
    "exact_match": lambda prediction, question: exact_match(prediction, question.references),
    "anls/lmms-eval": lambda prediction, question: anls(prediction, question.references),
    "anls/strict": lambda prediction, question: anls(prediction, question.references, strict=True),
    "vqa_accuracy/lmms-eval": lambda prediction, question: vqa_accuracy(
        prediction, question.references
    ),
    "relaxed_accuracy/lmms-eval": lambda prediction, question: max(
        relaxed_accuracy(prediction, target) for target in question.references
    ),
    "choice/lmms-eval": _choice(
        lambda prediction, question: choice_letters.extract_choice(
            prediction, len(question.choices)
        )
    ),
    "choice/lmms-eval-mvbench": _choice(
        lambda prediction, _: choice_letters.standalone_letter(prediction)
    ),
    "choice/vlmevalkit-videomme": _choice(_capital_or_text),
    "choice/vlmevalkit-mlvu": _choice(_bracket_or_text),
    "choice/vlmevalkit-mvbench": _vlmevalkit_mvbench,
}
"""Each takes a prediction and its question and gives 0 to 1."""


@functools.cache
def find_rule(name: str) -> Rule:
    """A rule of `RULES`, or a function of the user's own by ``module:function``.

    Raises:
        ConfigError: There is none.
    """
    if name in RULES:
        return RULES[name]
    module, colon, function = name.partition(":")
    if not colon:
        raise ConfigError(
            f"no rule {name!r}; known: {', '.join(RULES)}, or module:function of your own"
        )
    try:
        found: Rule = getattr(importlib.import_module(module), function)
        if not callable(found):
            raise TypeError(f"{function} is no function")
    except (ImportError, AttributeError, TypeError, ValueError) as error:
        raise ConfigError(
            f"rule {name!r}: {error}; expected a function of (prediction, question) that Python "
            f"can import (with PYTHONPATH=. from this folder)"
        ) from error
    return found


def apply_rule(name: str, prediction: str, question: Question) -> float:
    """A rule under the house rule: nothing said is never right.

    >>> apply_rule("choice/vlmevalkit-mvbench", "", Question.example())
    0.0

    Raises:
        ConfigError: The rule is the user's own and gives no share.
    """
    if not prediction.strip():
        return 0.0
    found = float(find_rule(name)(prediction, question))
    if not 0 <= found <= 1:
        raise ConfigError(
            f"rule {name!r} gives {found} for {prediction!r}, expected from 0 (wrong) to 1 (right)"
        )
    return found
