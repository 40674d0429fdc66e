"""Answers to scores, without a model."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from smolvlm2.errors import DataError
from smolvlm2.evaluation.answers import Answer
from smolvlm2.evaluation.benchmark import Benchmark, PromptStyle
from smolvlm2.evaluation.questions import Question
from smolvlm2.evaluation.result import BenchmarkResult, GroupScore
from smolvlm2.evaluation.rules import apply_rule
from smolvlm2.evaluation.statistics import clustered_interval, macro_weights


def score_answer(rule: str, answer: Answer, question: Question) -> float:
    """Score of one answer; none, and one about something that could not be shown, is wrong."""
    return 0.0 if answer.problem else apply_rule(rule, answer.prediction, question)


def score(
    benchmark: Benchmark,
    questions: Sequence[Question],
    answers: Mapping[str, Answer],
    *,
    style: PromptStyle = "native",
    blank_images: bool = False,
    seconds: float = 0.0,
    tokens: int = 0,
    run: Mapping[str, Any] | None = None,
) -> BenchmarkResult:
    """Score answers; ``answers`` holds one for each question, by id.

    Raises:
        DataError: The benchmark's chance is by choices and a question has none.
    """
    given = [answers[question.question_id] for question in questions]
    pairs = list(zip(given, questions, strict=True))
    scores = [score_answer(benchmark.rule, *pair) for pair in pairs]
    parts = [question.groups.get(benchmark.macro_over or "", "") for question in questions]
    weights = macro_weights(parts)
    clusters = [question.cluster or question.question_id for question in questions]
    beside = {
        rule: _mean([score_answer(rule, *pair) for pair in pairs], weights)
        for rule in benchmark.beside
    }
    if benchmark.macro_over:
        beside["mean of questions"] = sum(scores) / len(scores)
    prompt = benchmark.prompt(style)
    return BenchmarkResult(
        benchmark=benchmark.name,
        title=benchmark.title or benchmark.name,
        accuracy=_mean(scores, weights),
        n=len(questions),
        interval=clustered_interval(scores, weights, parts, clusters),
        rule=benchmark.rule,
        aggregation=f"mean of {benchmark.macro_over or 'questions'}",
        beside=beside,
        chance=_chance(benchmark, questions, weights),
        # Where answers are texts, a letter alone is never right.
        constant=_constant_letters(questions, weights) if "choice/" in benchmark.rule else {},
        groups=_groups(questions, scores, clusters),
        blank_images=blank_images,
        prompt_style=style,
        unverified=[*benchmark.unverified, *([prompt.unverified] if prompt.unverified else [])],
        unanswered=[
            {"question_id": answer.question_id, "problem": answer.problem}
            for answer in given
            if answer.problem
        ],
        empty=sum(not answer.prediction.strip() and not answer.problem for answer in given),
        seconds=seconds,
        tokens=tokens,
        tokens_per_s=tokens / seconds if seconds else 0.0,
        run=dict(run or {}),
        questions={
            question.question_id: (points, cluster, part)
            for question, points, cluster, part in zip(
                questions, scores, clusters, parts, strict=True
            )
        },
    )


def _mean(scores: Sequence[float], weights: np.ndarray) -> float:
    """Weighted mean; a plain one is summed as it reads, so that 5 of 7 is exactly 5 / 7."""
    if (weights == weights[0]).all():
        return sum(scores) / len(scores)
    return float(np.dot(weights, scores))


def _groups(
    questions: Sequence[Question], scores: Sequence[float], clusters: Sequence[str]
) -> dict[str, dict[str, GroupScore]]:
    members: dict[str, dict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
    for place, question in enumerate(questions):
        for name, value in question.groups.items():
            members[name][value].append(place)
    found: dict[str, dict[str, GroupScore]] = {}
    for name, values in sorted(members.items()):
        found[name] = {}
        for value, places in sorted(values.items()):
            some = [scores[place] for place in places]
            even = np.full(len(some), 1 / len(some))
            found[name][value] = GroupScore(
                score=sum(some) / len(some),
                n=len(some),
                interval=clustered_interval(
                    some, even, [""] * len(some), [clusters[place] for place in places]
                ),
            )
    return found


def _chance(
    benchmark: Benchmark, questions: Sequence[Question], weights: np.ndarray
) -> float | None:
    if benchmark.chance == "none":
        return None
    if benchmark.chance != "choices":
        return benchmark.chance
    open_questions = [q.question_id for q in questions if not q.choices and not q.problem]
    if open_questions:
        raise DataError(
            f"{benchmark.name}: question {open_questions[0]!r} has no choices, but the benchmark's "
            f"chance is by choices; set `chance: none` or a share"
        )
    # What cannot be asked cannot be guessed either.
    shares = [1 / len(q.choices) if q.choices and not q.problem else 0.0 for q in questions]
    return _mean(shares, weights)


def _constant_letters(questions: Sequence[Question], weights: np.ndarray) -> dict[str, float]:
    """Score of answering every question with the same letter."""
    right = [question.letter for question in questions]
    known = sorted({letter for letter in right if letter})
    return {letter: _mean([float(x == letter) for x in right], weights) for letter in known}
