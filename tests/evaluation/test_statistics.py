"""Intervals and the paired test keep what they promise."""

import math

import numpy as np
import pytest

from smolvlm2.errors import DataError
from smolvlm2.evaluation.comparison import compare, compare_all, comparison_table
from smolvlm2.evaluation.result import BenchmarkResult
from smolvlm2.evaluation.statistics import (
    clustered_interval,
    macro_weights,
    paired_test,
    standard_error,
    wilson_interval,
)


def even(count: int) -> np.ndarray:
    return np.full(count, 1 / count)


@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    [(0, 10, 0.0, 0.2775), (10, 10, 0.7225, 1.0), (50, 100, 0.4038, 0.5962)],
)
def test_wilson_intervals_equal_tables(successes, n, low, high):
    assert wilson_interval(successes, n) == pytest.approx((low, high), abs=1e-4)


@pytest.mark.parametrize(("successes", "n"), [(1, 0), (-1, 5), (6, 5)])
def test_no_share_is_refused(successes, n):
    with pytest.raises(ValueError, match="make no share"):
        wilson_interval(successes, n)


def test_independent_answers_have_wilson_s_interval():
    values = [1.0] * 30 + [0.0] * 70
    found = clustered_interval(values, even(100), [""] * 100, range(100))
    assert found == pytest.approx(wilson_interval(30, 100))


def test_answers_that_repeat_each_other_are_worth_one():
    rng = np.random.default_rng(0)
    videos = (rng.random(100) < 0.4).astype(float)
    values = np.repeat(videos, 3)
    clusters = np.repeat(np.arange(100), 3)
    low, high = clustered_interval(values, even(300), [""] * 300, clusters)
    alone = wilson_interval(videos.sum(), 100)
    assert (low, high) == pytest.approx(alone, abs=0.003)
    independent = wilson_interval(values.sum(), 300)
    assert high - low > 1.6 * (independent[1] - independent[0])


def test_clusters_that_agree_do_not_look_certain():
    low, high = clustered_interval([1, 0, 1, 0], even(4), [""] * 4, ["a", "a", "b", "b"])
    assert (low, high) == wilson_interval(1, 2)


def test_intervals_cover_the_truth_as_often_as_they_say():
    rng = np.random.default_rng(5)
    hits = 0
    for _ in range(300):
        video = rng.beta(1.2, 2.0, 60)
        values = (rng.random((60, 3)) < video[:, None]).astype(float).ravel()
        low, high = clustered_interval(values, even(180), [""] * 180, np.repeat(np.arange(60), 3))
        hits += low <= 1.2 / 3.2 <= high
    assert 0.92 <= hits / 300 <= 0.985


def test_a_mean_of_tasks_has_the_error_of_its_tasks():
    values = [1.0, 0.0, 1.0, 1.0, 0.0, 0.0]
    tasks = ["a", "a", "b", "b", "b", "b"]
    weights = macro_weights(tasks)
    assert weights.sum() == pytest.approx(1)
    found = standard_error(values, weights, tasks, range(6))
    by_hand = math.sqrt((0.5**2 * 2 / 16 + 0.5**2 * 4 / 64) * 6 / 5)
    assert found == pytest.approx(by_hand)


def test_equal_models_do_not_differ_and_a_better_one_does():
    rng = np.random.default_rng(0)
    noise = rng.permutation(np.tile([1.0, -1.0, 0.0, 0.0], 50))
    clusters = np.arange(200) // 2
    mean, (low, high), p_value = paired_test(noise, even(200), [""] * 200, clusters)
    assert low < 0 < high
    assert p_value > 0.05
    better = np.where(rng.random(200) < 0.3, 1.0, 0.0)
    mean, (low, _), p_value = paired_test(better, even(200), [""] * 200, clusters)
    assert mean == pytest.approx(better.mean())
    assert low > 0
    assert p_value < 0.001
    assert paired_test([0.0] * 4, even(4), [""] * 4, range(4))[2] == 1


RUNS = (("a", 2048), ("b", 512))


def result(scores: dict[str, float], **fields) -> BenchmarkResult:
    values = {
        "benchmark": "shade",
        "title": "Shade",
        "accuracy": sum(scores.values()) / len(scores),
        "n": len(scores),
        "interval": (0.0, 1.0),
        "rule": "exact_match",
        "aggregation": "mean of questions",
        "beside": {},
        "chance": None,
        "constant": {},
        "groups": {},
        "blank_images": False,
        "prompt_style": "native",
        "unverified": [],
        "unanswered": [],
        "empty": 0,
        "seconds": 1.0,
        "tokens": 1,
        "tokens_per_s": 1.0,
        "questions": {name: (value, name, "") for name, value in scores.items()},
    }
    return BenchmarkResult(**values | fields)


def test_two_results_are_compared_question_by_question():
    a = result({str(i): float(i < 3) for i in range(10)})
    b = result({str(i): float(1 <= i < 9) for i in range(10)}, prompt_style="lmms")
    found = compare(a, b)
    assert (found.difference, found.wins, found.losses) == (pytest.approx(0.5), 6, 1)
    assert found.warnings == ("prompt style differs: 'native' and 'lmms'",)
    pixels = [{"weights": name, "folder": name, "longest_edge": edge} for name, edge in RUNS]
    found = compare(
        result({"1": 1.0}, run=pixels[0]), result({"1": 1.0}, run=pixels[1] | {"dtype": "bfloat16"})
    )
    assert found.warnings == (
        "longest_edge differs: 2048 and 512",
        "dtype differs: None and 'bfloat16'",
    )
    found = compare(a, b)
    table = comparison_table([found])
    assert "| Shade | 30.0 | 80.0 | +50.0 |" in table
    assert "- Shade: prompt style differs" in table


def test_what_cannot_be_compared_is_refused():
    a, b = result({"1": 1.0, "2": 0.0}), result({"1": 1.0, "3": 0.0})
    with pytest.raises(DataError, match=r"2 questions are in one result only, first \['2'\]"):
        compare(a, b)
    with pytest.raises(DataError, match="scored by exact_match, mean of questions and by anls/str"):
        compare(a, result({"1": 1.0, "2": 0.0}, rule="anls/strict"))
    with pytest.raises(DataError, match="no benchmark in common: x and y"):
        compare_all({"x": a}, {"y": b})
