"""Scorers are pure: predictions in, scores out."""

import math

import pytest

from smolvlm2.evaluation.scorers import exact_match, wilson_interval


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
        (".", [""], 0),
        ("", ["7"], 0),
        ("7", [], 0),
        ("the 7", ["7"], 0),
    ],
)
def test_exact_match_ignores_case_spaces_and_the_full_stop_only(prediction, references, expected):
    assert exact_match(prediction, references) == expected


@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    # From the closed form; 0 of n has the upper bound z^2 / (n + z^2).
    [
        (0, 10, 0.0, 0.27753),
        (10, 10, 0.72247, 1.0),
        (50, 100, 0.40383, 0.59617),
        (1, 1, 0.2065, 1.0),
    ],
)
def test_wilson_interval_has_its_known_bounds(successes, n, low, high):
    assert wilson_interval(successes, n) == pytest.approx((low, high), abs=1e-4)


def test_wilson_interval_stays_within_0_and_1():
    for n in (1, 3, 1000):
        for successes in (0, n / 2, n):
            low, high = wilson_interval(successes, n)
            assert 0 <= low <= successes / n <= high <= 1
            assert not math.isnan(low + high)


@pytest.mark.parametrize(("successes", "n"), [(0, 0), (3, 2), (-1, 2)])
def test_wilson_interval_refuses_what_is_no_share(successes, n):
    with pytest.raises(ValueError, match="make no share"):
        wilson_interval(successes, n)
