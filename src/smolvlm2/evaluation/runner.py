"""Ask a model a benchmark's questions and score its answers. One runner for all benchmarks."""

import hashlib
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from smolvlm2.errors import DataError, MediaError
from smolvlm2.evaluation.answers import Answer, AnswerLog, fingerprint, read_answers
from smolvlm2.evaluation.benchmark import Benchmark
from smolvlm2.evaluation.questions import Question, read_questions
from smolvlm2.evaluation.scorers import SCORERS, wilson_interval

MID_GREY = 128
"""Value of every pixel of a blank picture."""


class Generator(Protocol):
    """The part of ``SmolVLM`` that evaluation uses."""

    def generate(self, input_ids: Any, **options: Any) -> list[list[int]]:
        """New token ids of each row, without the stop token."""
        ...


@dataclass(frozen=True, kw_only=True)
class TypeScore:
    """Score of one type of question."""

    accuracy: float
    """Share of right answers, 0 to 1."""
    n: int
    """Questions of this type."""


@dataclass(frozen=True, kw_only=True)
class BenchmarkResult:
    """Scores of one benchmark; ``asdict`` of it is JSON."""

    benchmark: str
    """Its name."""
    accuracy: float
    """Mean score over all questions, 0 to 1; unreadable media count as wrong."""
    n: int
    """Questions asked."""
    interval: tuple[float, float]
    """95 % Wilson interval of ``accuracy``."""
    chance: float | None
    """Accuracy of guessing by the benchmark's rule; None where it declares none."""
    by_type: dict[str, TypeScore]
    """Scores by ``question_type``."""
    blank_images: bool
    """Whether every picture was replaced by mid-grey."""
    seconds: float
    """Time of this call; answers taken over from a killed run cost none."""
    unreadable: list[dict[str, str]]
    """``question_id`` and ``problem`` of each question whose medium cannot be read."""


def evaluate(
    model: Generator,
    processor: Any,
    benchmark: Benchmark,
    data_root: str | Path,
    *,
    batch_size: int = 16,
    limit: int | None = None,
    blank_images: bool = False,
    answers_path: str | Path | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> BenchmarkResult:
    """Answer and score a benchmark, greedily.

    Args:
        model: Has ``generate``; a ``SmolVLM``.
        processor: A ``Processor``.
        benchmark: What to ask.
        data_root: Folder that ``benchmark.file`` is relative to.
        batch_size: Questions answered together.
        limit: Only so many questions, from the start.
        blank_images: Replace the pixels of every image and frame by mid-grey, after decoding, so
            that prompts keep their layout. What the model still gets right is not vision.
        answers_path: JSONL log; an unfinished one of the same run is continued.
        progress: Called with (questions done, questions in all).

    Raises:
        DataNotFoundError: The question file is missing.
        DataError: The question file is malformed.
    """
    start = time.perf_counter()
    if batch_size < 1:
        raise ValueError(f"batch_size is {batch_size}, expected at least 1")
    questions = read_questions(Path(data_root) / benchmark.file, limit=limit)
    answers: dict[str, Answer] = {}
    log = None
    if answers_path is not None:
        run = {
            "benchmark": benchmark.name,
            "blank_images": blank_images,
            "limit": limit,
            "questions": _digest(questions, benchmark),
            "model": fingerprint(model),
        }
        log = AnswerLog(Path(answers_path), run)
        answers.update(log.answers)
    pending = [question for question in questions if question.question_id not in answers]
    for first in range(0, len(pending), batch_size):
        new = _answer(
            model, processor, benchmark, pending[first : first + batch_size], blank_images
        )
        if log is not None:
            log.append(new)
        answers.update((answer.question_id, answer) for answer in new)
        if progress is not None:
            progress(len(answers), len(questions))
    seconds = time.perf_counter() - start
    return score(benchmark, questions, answers, blank_images=blank_images, seconds=seconds)


def rescore(
    benchmark: Benchmark, data_root: str | Path, answers_path: str | Path
) -> BenchmarkResult:
    """Score a finished answer log again, without the model.

    Raises:
        DataNotFoundError: The log or the question file is missing.
        DataError: The log is of another benchmark, or a question has no answer in it.
    """
    start = time.perf_counter()
    run, answers = read_answers(Path(answers_path))
    if run["benchmark"] != benchmark.name:
        raise DataError(
            f"{answers_path}: answers to {run['benchmark']!r}, expected {benchmark.name!r}"
        )
    questions = read_questions(Path(data_root) / benchmark.file, limit=run.get("limit"))
    open_questions = [q.question_id for q in questions if q.question_id not in answers]
    if open_questions:
        raise DataError(
            f"{answers_path}: {len(open_questions)} of {len(questions)} questions have no answer, "
            f"first {open_questions[0]!r}; run the evaluation again to finish it"
        )
    blank = bool(run.get("blank_images"))
    seconds = time.perf_counter() - start
    return score(benchmark, questions, answers, blank_images=blank, seconds=seconds)


def score(
    benchmark: Benchmark,
    questions: Sequence[Question],
    answers: Mapping[str, Answer],
    *,
    blank_images: bool = False,
    seconds: float = 0.0,
) -> BenchmarkResult:
    """Score answers; ``answers`` holds one for each question, by id.

    Raises:
        DataError: The benchmark's chance is by choices and a question has none.
    """
    scorer = SCORERS[benchmark.scorer]
    points: dict[str, list[float]] = defaultdict(list)
    unreadable = []
    for question in questions:
        answer = answers[question.question_id]
        right = 0.0 if answer.problem else scorer(answer.prediction, question.references)
        points[question.question_type].append(right)
        if answer.problem:
            unreadable.append({"question_id": question.question_id, "problem": answer.problem})
    total = sum(map(sum, points.values()))
    return BenchmarkResult(
        benchmark=benchmark.name,
        accuracy=total / len(questions),
        n=len(questions),
        interval=wilson_interval(total, len(questions)),
        chance=_chance(benchmark, questions),
        by_type={
            name: TypeScore(accuracy=sum(some) / len(some), n=len(some))
            for name, some in sorted(points.items())
        },
        blank_images=blank_images,
        seconds=seconds,
        unreadable=unreadable,
    )


def examples(
    benchmark: Benchmark, data_root: str | Path, answers_path: str | Path, *, count: int
) -> list[dict[str, Any]]:
    """Questions with answers, spread evenly over the file: what a report shows.

    Returns:
        Up to ``count`` of ``{"benchmark", "question", "answer", "truth", "right", "media"}``.
    """
    run, answers = read_answers(Path(answers_path))
    questions = read_questions(Path(data_root) / benchmark.file, limit=run.get("limit"))
    answered = [question for question in questions if question.question_id in answers]
    count = min(count, len(answered))
    chosen = [answered[len(answered) * i // count] for i in range(count)]
    scorer = SCORERS[benchmark.scorer]
    return [
        {
            "benchmark": benchmark.name,
            "question": question.text,
            "answer": answers[question.question_id].prediction,
            "truth": question.references[0],
            "right": scorer(answers[question.question_id].prediction, question.references) == 1,
            "media": [str(path) for path in question.media],
        }
        for question in chosen
    ]


def _answer(
    model: Generator,
    processor: Any,
    benchmark: Benchmark,
    questions: Sequence[Question],
    blank_images: bool,
) -> list[Answer]:
    """Answer a batch; questions whose media cannot be read get an empty answer and the reason."""
    conversations = [question.conversation(benchmark.prompt_suffix) for question in questions]
    try:
        inputs = processor(conversations, add_generation_prompt=True)
    except MediaError as error:
        if len(questions) == 1:
            problem = f"{error.reason}: {error}"
            return [Answer(question_id=questions[0].question_id, prediction="", problem=problem)]
        # One by one, to find the bad one.
        alone = (_answer(model, processor, benchmark, [q], blank_images) for q in questions)
        return [answer for answers in alone for answer in answers]
    inputs = dict(inputs)
    if blank_images and "pixel_values" in inputs:
        inputs["pixel_values"] = inputs["pixel_values"] * 0 + MID_GREY
    # House rule: a question is always answered. A model that has never seen a blank picture may
    # stop at once, and the control would measure that instead of what it guesses.
    rows = model.generate(
        inputs.pop("input_ids"),
        **inputs,
        max_new_tokens=benchmark.max_new_tokens,
        min_new_tokens=1,
    )
    return [
        Answer(question_id=question.question_id, prediction=processor.decode(ids).strip())
        for question, ids in zip(questions, rows, strict=True)
    ]


def _chance(benchmark: Benchmark, questions: Sequence[Question]) -> float | None:
    if benchmark.chance == "none":
        return None
    if benchmark.chance != "choices":
        return benchmark.chance
    open_questions = [question.question_id for question in questions if not question.choices]
    if open_questions:
        raise DataError(
            f"{benchmark.name}: question {open_questions[0]!r} has no choices, but the benchmark's "
            f"chance is by choices; set `chance: none` or a share"
        )
    return sum(1 / len(question.choices) for question in questions) / len(questions)


def _digest(questions: Sequence[Question], benchmark: Benchmark) -> str:
    """Changes when anything that can change an answer does."""
    settings = (benchmark.prompt_suffix, benchmark.max_new_tokens)
    asked = [(q.question_id, q.messages, [path.name for path in q.media]) for q in questions]
    return hashlib.sha256(repr((settings, asked)).encode()).hexdigest()[:16]
