"""Controls: what gold, empty, constant and shuffled answers must score on every benchmark."""

import json
from pathlib import Path

import numpy as np
import pytest

from smolvlm2.evaluation.answers import Answer
from smolvlm2.evaluation.benchmark import Benchmark, benchmark_names, load_benchmark
from smolvlm2.evaluation.questions import Question
from smolvlm2.evaluation.scoring import score

VECTORS = json.loads((Path(__file__).parent / "data" / "metric_vectors.json").read_text("utf-8"))
CHOICE = [n for n in benchmark_names() if load_benchmark(n).rule.startswith("choice/")]
OPEN = ["docvqa", "textvqa", "chartqa"]


def questions_of(benchmark: Benchmark, count: int = 400) -> list[Question]:
    """Made-up questions in the groups that the benchmark knows."""
    rng = np.random.default_rng(0)
    made = []
    for number in range(count):
        letter = "ABCD"[rng.integers(4)]
        word = f"answer {rng.integers(1000, 9999)}"
        references = {
            "vqa_accuracy/lmms-eval": (word,) * 6 + ("other",) * 2 + ("thing",) * 2,
            "relaxed_accuracy/lmms-eval": (str(rng.integers(10, 10**6)),),
        }.get(benchmark.rule, (word, "a second one"))
        chosen = benchmark.rule.startswith("choice/")
        made.append(
            Question(
                question_id=str(number),
                text="?",
                media=(),
                references=references,
                choices=("w", "x", "y", "z") if chosen else (),
                letter=letter if chosen else "",
                groups={name: str(number % 5) for name in benchmark.layouts[0].groups},
                cluster=f"video {number // 3}",
            )
        )
    return made


def scored(benchmark, questions, say):
    answers = {
        q.question_id: Answer(question_id=q.question_id, prediction=say(q)) for q in questions
    }
    return score(benchmark, questions, answers)


@pytest.mark.parametrize("name", CHOICE + OPEN)
def test_gold_answers_score_one_and_textvqa_its_ceiling(name):
    benchmark = load_benchmark(name)
    result = scored(benchmark, questions_of(benchmark), lambda q: q.letter or q.references[0])
    assert result.accuracy == pytest.approx(1)
    # Six of ten annotators agree: full score. Two of ten never give more than 0.6.
    if name == "textvqa":
        other = scored(benchmark, questions_of(benchmark), lambda _: "other")
        assert other.accuracy == pytest.approx(0.6)


@pytest.mark.parametrize("name", CHOICE + OPEN)
@pytest.mark.parametrize("nothing", ["", "  \n"])
def test_empty_answers_score_zero_over_all_questions(name, nothing):
    benchmark = load_benchmark(name)
    result = scored(benchmark, questions_of(benchmark), lambda _: nothing)
    assert (result.accuracy, result.n, result.empty) == (0, 400, 400)
    assert set(result.beside.values()) <= {0.0}


@pytest.mark.parametrize("name", CHOICE)
def test_a_constant_letter_scores_its_share(name):
    benchmark = load_benchmark(name)
    questions = questions_of(benchmark)
    result = scored(benchmark, questions, lambda _: "A")
    share = np.mean([q.letter == "A" for q in questions])
    assert result.accuracy == pytest.approx(share)
    assert result.constant["A"] == pytest.approx(share)
    assert sum(result.constant.values()) == pytest.approx(1)


@pytest.mark.parametrize("name", CHOICE)
def test_shuffled_answers_score_chance(name):
    benchmark = load_benchmark(name)
    questions = questions_of(benchmark)
    letters = np.random.default_rng(1).permutation([q.letter for q in questions])
    result = scored(benchmark, questions, lambda q: str(letters[int(q.question_id)]))
    assert result.chance == pytest.approx(0.25)
    low, high = result.interval
    assert low < 0.25 < high


@pytest.mark.parametrize("name", OPEN)
def test_shuffled_answers_to_open_questions_score_almost_nothing(name):
    benchmark = load_benchmark(name)
    questions = questions_of(benchmark)
    order = np.random.default_rng(1).permutation(len(questions))
    result = scored(
        benchmark, questions, lambda q: questions[order[int(q.question_id)]].references[0]
    )
    # "answer 1234" against "answer 5678" is two thirds alike, which ANLS honours.
    assert result.accuracy < (0.8 if name == "docvqa" else 0.1)
    assert result.chance is None


def rows_as_questions(rows, group):
    return [
        Question(
            question_id=str(number),
            text="?",
            media=(),
            references=(),
            choices=("w", "x", "y", "z"),
            letter=gold,
            groups={group: name},
        )
        for number, (name, _, gold) in enumerate(rows)
    ]


def test_the_aggregates_of_the_reference_are_reproduced():
    rows = VECTORS["video_mme"]["rows"]
    questions = rows_as_questions(rows, "duration")
    result = scored(load_benchmark("video_mme"), questions, lambda q: rows[int(q.question_id)][1])
    assert 100 * result.accuracy == pytest.approx(VECTORS["video_mme"]["micro"], abs=1e-5)
    by_duration = {name: 100 * s.score for name, s in result.groups["duration"].items()}
    assert by_duration == pytest.approx(VECTORS["video_mme"]["by_duration"], abs=1e-5)

    rows = VECTORS["mlvu"]["rows"]
    questions = rows_as_questions(rows, "task")
    result = scored(load_benchmark("mlvu"), questions, lambda q: rows[int(q.question_id)][1])
    assert 100 * result.accuracy == pytest.approx(VECTORS["mlvu"]["macro"], abs=1e-5)
    beside = 100 * result.beside["mean of questions"]
    assert beside == pytest.approx(VECTORS["mlvu"]["micro"], abs=1e-5)

    rows = [("one task", *row) for row in VECTORS["mvbench"]["rows"]]
    questions = rows_as_questions(rows, "task")
    result = scored(load_benchmark("mvbench"), questions, lambda q: rows[int(q.question_id)][1])
    # Nothing said stays in the denominator; lmms-eval takes it out.
    assert 100 * result.accuracy == pytest.approx(VECTORS["mvbench"]["all_rows"])
    assert VECTORS["mvbench"]["without_empty"] > VECTORS["mvbench"]["all_rows"]
