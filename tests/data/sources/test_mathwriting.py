"""MathWriting: an image and its formula, under whichever name the column has."""

import pytest

from smolvlm2.data.ledger import LeftOutError
from smolvlm2.data.sources.mathwriting import MathWriting
from smolvlm2.data.sources.prompts import MATHWRITING

FORMULAS = MathWriting(source="formulas", licence="none")


def record(image=b"png", **labels):
    (found,) = FORMULAS.records({"image": {"bytes": image}} | labels, "data/train.parquet")
    return found


@pytest.mark.parametrize("column", ["latex", "text", "label"])
def test_the_formula_is_the_answer(column):
    found = record(**{column: r"\frac{1}{2}"})
    (_, question), answer = found.turns
    assert question in MATHWRITING
    assert answer == ("assistant", r"\frac{1}{2}")
    assert found.media[0].data == b"png"


def test_a_formula_is_asked_for_in_more_than_one_way():
    asked = {record(bytes([n]), latex="x").turns[0][1] for n in range(40)}
    assert asked == set(MATHWRITING)


@pytest.mark.parametrize("formula", [None, " "])
def test_a_row_without_formula_has_no_caption(formula):
    with pytest.raises(LeftOutError, match="no_caption: the formula in 'latex'"):
        record(latex=formula)


def test_a_file_without_such_a_column_is_unreadable():
    with pytest.raises(LeftOutError, match="unreadable_record: no column with the formula"):
        record()


def test_a_row_without_image_lacks_its_medium():
    with pytest.raises(LeftOutError, match="missing_media"):
        list(FORMULAS.records({"image": None, "latex": "x"}, "data/train.parquet"))
