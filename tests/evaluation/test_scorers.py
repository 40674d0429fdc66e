"""Scorers reproduce every reference value; what no reference says follows the house rules."""

import json
from pathlib import Path

import pytest

from smolvlm2.evaluation import choice_letters
from smolvlm2.evaluation.questions import Question
from smolvlm2.evaluation.rules import RULES, apply_rule
from smolvlm2.evaluation.scorers import (
    anls,
    edit_distance,
    exact_match,
    extract_choice,
    relaxed_accuracy,
    vqa_accuracy,
)
from smolvlm2.evaluation.vqa_answers import normalise_vqa_answer

VECTORS = json.loads((Path(__file__).parent / "data" / "metric_vectors.json").read_text("utf-8"))


def rows(name: str) -> list:
    return [
        pytest.param(row, id=f"{i}-{row.get('prediction')}") for i, row in enumerate(VECTORS[name])
    ]


def ask(letter: str, options: list[str]) -> Question:
    return Question(
        question_id="q",
        text="?",
        media=(),
        references=(options["ABCDEF".index(letter)],),
        choices=tuple(options),
        letter=letter,
    )


@pytest.mark.parametrize("row", rows("anls"))
def test_anls_equals_both_conventions(row):
    found = anls(row["prediction"], row["references"])
    assert found == pytest.approx(row["lmms-eval"], abs=1e-6)
    strict = anls(row["prediction"], row["references"], strict=True)
    assert strict == pytest.approx(row["strict"], abs=1e-6)


@pytest.mark.parametrize(
    ("prediction", "reference", "expected"),
    [("Strasse", "Straße", 5 / 7), ("maß", "mas", 3 / 4), ("ﬁt", "fit", 1 / 3)],
)
def test_lengths_in_anls_are_those_of_the_capitals(prediction, reference, expected):
    """lmms-eval 0.7.3 and anls 0.0.2 measure ``len(text.upper())``; "ß" is "SS" there."""
    expected = expected if expected >= 0.5 else 0
    assert anls(prediction, [reference]) == expected
    assert anls(f" {prediction}", [reference], strict=True) == expected


@pytest.mark.parametrize("row", rows("vqa_accuracy"))
def test_vqa_accuracy_equals_lmms_eval(row):
    answers = [text for text, count in row["answers"] for _ in range(count)]
    assert vqa_accuracy(row["prediction"], answers) == pytest.approx(row["lmms-eval"], abs=1e-6)


@pytest.mark.parametrize("row", VECTORS["vqa_normal_form"], ids=lambda row: row["text"])
def test_the_normal_form_of_answers_equals_lmms_eval(row):
    assert normalise_vqa_answer(row["text"]) == row["lmms-eval"]


@pytest.mark.parametrize("row", rows("relaxed_accuracy"))
def test_relaxed_accuracy_equals_lmms_eval(row):
    assert relaxed_accuracy(row["prediction"], row["target"]) == row["lmms-eval"]


@pytest.mark.parametrize("row", rows("choice_letter"))
def test_letters_are_extracted_as_each_convention_does(row):
    assert extract_choice(row["prediction"], row["choices"]) == row["lmms-eval"]
    found = choice_letters.first_capital(row["prediction"], row["choices"])
    assert found == row["vlmevalkit-videomme"]


@pytest.mark.parametrize(
    "convention",
    [
        "lmms-eval",
        "lmms-eval-mvbench",
        "vlmevalkit-videomme",
        "vlmevalkit-mlvu",
        "vlmevalkit-mvbench",
    ],
)
@pytest.mark.parametrize("row", rows("choice_score"))
def test_choices_are_scored_as_each_convention_does(row, convention):
    question = ask(row["letter"], row["options"])
    assert RULES[f"choice/{convention}"](row["prediction"], question) == row[convention]


@pytest.mark.parametrize(
    ("rule", "prediction", "letter", "expected"),
    [
        # Matching sees the whole answer, not what stands before the bracket.
        ("choice/vlmevalkit-mlvu", "(b) C", "C", 1),
        ("choice/vlmevalkit-mlvu", ") two", "B", 1),
        ("choice/vlmevalkit-mlvu", "(b) two", "D", 0),
        # A letter far from the end counts after "answer is", be it the first of a word.
        ("choice/vlmevalkit-mlvu", "The answer is **B**, as the cat and the dog show", "B", 1),
        ("choice/vlmevalkit-mvbench", "So the answer is a dog, not a cat, I think", "A", 1),
        ("choice/vlmevalkit-mvbench", "\n(b) two", "B", 1),
        # "Z" and refusals are a choice of nothing, whatever option is quoted.
        ("choice/vlmevalkit-videomme", "Z two", "B", 0),
        ("choice/vlmevalkit-mlvu", "Cannot determine the answer: two", "B", 0),
        # lmms-eval's opening "A. ..." is a whole line.
        ("choice/lmms-eval-mvbench", "A.x\nC", "C", 1),
        ("choice/lmms-eval-mvbench", "A. x\nC", "A", 1),
    ],
)
def test_other_conventions_read_what_the_vectors_do_not_hold(rule, prediction, letter, expected):
    """Values of the functions at VLMEvalKit e8e78f0 and in lmms-eval 0.7.3, run on these rows."""
    question = ask(letter, ["cat", "two", "red car", "dog"])
    assert RULES[rule](prediction, question) == expected


@pytest.mark.parametrize("name", RULES)
def test_nothing_said_is_never_right(name):
    question = ask("A", ["", "b"])
    assert apply_rule(name, "", question) == 0
    assert apply_rule(name, " \n", question) == 0


def test_where_conventions_differ_is_known():
    """A change of this list is a change of what scores mean: see docs/decisions/011."""
    differ = {
        name: sum(not row["agree"] for row in VECTORS[name])
        for name in ("anls", "vqa_accuracy", "relaxed_accuracy", "choice_letter", "choice_score")
    }
    assert differ == {name: VECTORS["differing"][name] for name in differ}


@pytest.mark.parametrize(
    ("prediction", "references", "expected"),
    [
        ("7", ["7"], 1),
        (" To the  LEFT. ", ["to the left"], 1),
        ("7", ["3", "7"], 1),
        ("17", ["7"], 0),
        ("7 .", ["7"], 1),
        ("7.5", ["7"], 0),
        ("", [""], 0),
        (".", ["."], 0),
    ],
)
def test_exact_match_forgives_case_space_and_a_full_stop(prediction, references, expected):
    assert exact_match(prediction, references) == expected


def test_edit_distance_counts_code_points():
    assert edit_distance("", "abc") == 3
    assert edit_distance("東京都", "東京") == 1
    assert edit_distance("abcdef", "azced") == 3


def test_extraction_looks_for_the_question_s_letters_only():
    assert extract_choice("E", 4) == ""
    assert extract_choice("E", 5) == "E"
    assert extract_choice("C", 2) == ""
    with pytest.raises(ValueError, match="num_choices is 0, expected 1 to 26"):
        extract_choice("A", 0)


def test_vqa_accuracy_of_no_annotator_is_nothing():
    assert vqa_accuracy("a", []) == 0
