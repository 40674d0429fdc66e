"""Rules by name, and functions of the user's own."""

import sys

import pytest

from smolvlm2.errors import ConfigError
from smolvlm2.evaluation.questions import Question
from smolvlm2.evaluation.rules import apply_rule, find_rule

SCORERS = """
def words(prediction, question):
    wanted = question.references[0].split()
    return sum(word in prediction.split() for word in wanted) / len(wanted)

def percent(prediction, question):
    return 100
"""


@pytest.fixture
def own_scorers(tmp_path, monkeypatch):
    (tmp_path / "own_scorers.py").write_text(SCORERS)
    monkeypatch.syspath_prepend(tmp_path)
    yield "own_scorers"
    sys.modules.pop("own_scorers", None)
    find_rule.cache_clear()


@pytest.fixture
def question():
    return Question(question_id="1", text="?", media=(), references=("a red square",))


def test_a_function_of_ones_own_scores(own_scorers, question):
    rule = f"{own_scorers}:words"
    assert apply_rule(rule, "a square", question) == pytest.approx(2 / 3)
    assert apply_rule(rule, " ", question) == 0


def test_a_score_that_is_no_share_is_refused(own_scorers, question):
    with pytest.raises(ConfigError, match=r"gives 100.0 for 'a', expected from 0 \(wrong\) to 1"):
        apply_rule(f"{own_scorers}:percent", "a", question)


@pytest.mark.parametrize(
    ("rule", "said"),
    [
        ("own_scorers:lines", "has no attribute 'lines'; expected a function"),
        (".own_scorers:words", "relative import for '.own_scorers'; expected a function"),
        ("not_there:words", "No module named 'not_there'; expected a function"),
        (":words", "Empty module name"),
        ("os:sep", "sep is no function; expected a function"),
        ("exact", "no rule 'exact'; known: exact_match, .*or module:function of your own"),
    ],
)
def test_a_rule_that_is_not_there_is_refused(own_scorers, rule, said):
    with pytest.raises(ConfigError, match=said):
        find_rule(rule)
