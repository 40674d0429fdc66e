"""Ask a model a benchmark's questions and score its answers. One runner for all benchmarks."""

import hashlib
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from smolvlm2.errors import DataError
from smolvlm2.evaluation.answers import Answer, AnswerLog, fingerprint, read_answers
from smolvlm2.evaluation.backends import Backend, Generator, NativeBackend
from smolvlm2.evaluation.benchmark import Benchmark, PromptStyle
from smolvlm2.evaluation.pipeline import Pace, answer_all, group_by_media
from smolvlm2.evaluation.published_files import find_questions
from smolvlm2.evaluation.questions import Question
from smolvlm2.evaluation.ranks import ONE_RANK, Ranks
from smolvlm2.evaluation.result import BenchmarkResult
from smolvlm2.evaluation.scoring import score, score_answer
from smolvlm2.processing.processor import Processor

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Standing:
    """How far a run is."""

    done: int
    """Questions with an answer, on this rank."""
    total: int
    """Questions of this rank."""
    score: float
    """Mean score so far by the headline rule, 0 to 1."""
    seconds: float
    """Since the start."""
    seconds_left: float
    """At the pace so far."""


Progress = Callable[[Standing], None]


def evaluate(
    model: Generator,
    processor: Processor,
    benchmark: Benchmark,
    data_root: str | Path,
    *,
    style: PromptStyle = "native",
    blank_images: bool = False,
    identity: dict[str, Any] | None = None,
    answers_path: str | Path | None = None,
    **options: Any,
) -> BenchmarkResult:
    """Answer and score a benchmark with a model in this process, greedily.

    Args:
        model: Has ``generate``; a ``SmolVLM``.
        processor: Its processor.
        benchmark: What to ask.
        data_root: Where ``published_files.find_questions`` looks.
        style: Whose prompts.
        blank_images: Replace the pixels of every image and frame by mid-grey, after decoding. What
            the model still gets right is not vision.
        identity: What the result says of the model, e.g. its path; default: a digest of its
            weights, where a log is kept.
        answers_path: JSONL log; an unfinished one of the same run is continued.
        options: As in ``run_benchmark``.

    Raises:
        DataNotFoundError: The question file is missing.
        DataError: The question file is malformed.
    """
    if identity is None and answers_path is not None:
        identity = {"weights": fingerprint(model)}
    backend = NativeBackend(
        model=model,
        processor=processor,
        benchmark=benchmark,
        style=style,
        blank_images=blank_images,
        identity=identity,
    )
    return run_benchmark(
        backend,
        benchmark,
        data_root,
        style=style,
        blank_images=blank_images,
        answers_path=answers_path,
        **options,
    )


def run_benchmark(
    backend: Backend,
    benchmark: Benchmark,
    data_root: str | Path,
    *,
    style: PromptStyle = "native",
    blank_images: bool = False,
    batch_size: int = 16,
    batch_tiles: int = 512,
    workers: int = 2,
    limit: int | None = None,
    answers_path: str | Path | None = None,
    progress: Progress | None = None,
    ranks: Ranks = ONE_RANK,
) -> BenchmarkResult:
    """Answer and score a benchmark with any backend.

    Args:
        backend: What answers; already made for ``benchmark``, ``style`` and ``blank_images``.
        benchmark: What to ask.
        data_root: Where ``published_files.find_questions`` looks.
        style: Whose prompts.
        blank_images: Whether the backend shows grey.
        batch_size: Most questions answered together.
        batch_tiles: Most tiles or frames answered together.
        workers: Threads that decode ahead.
        limit: Only so many questions; see `find_questions`.
        answers_path: JSONL log; an unfinished one of the same run is continued.
        progress: Called after every batch.
        ranks: Processes that share the work; each gets the same result.

    Raises:
        DataNotFoundError: The question file is missing.
        DataError: The question file is malformed.
    """
    start = time.perf_counter()
    pace = Pace(batch_size=batch_size, batch_tiles=batch_tiles, workers=workers)
    questions = find_questions(benchmark, data_root, limit=limit)
    identity = backend.describe()
    # What shares a medium stays on one rank: it is decoded there once.
    mine = group_by_media(questions)[ranks.rank :: ranks.world]
    answers: dict[str, Answer] = {}
    log = None
    if answers_path is not None:
        run = {
            "benchmark": benchmark.name,
            "style": style,
            "blank_images": blank_images,
            "limit": limit,
            "questions": _digest(questions, benchmark, style),
            **identity,
        }
        log = AnswerLog(Path(answers_path), run, rank=ranks.rank, world=ranks.world)
        answers.update(log.answers)
    made = _work(backend, benchmark, mine, answers, pace, log, progress)
    tokens = ranks.total(made)
    answers = {answer.question_id: answer for answer in ranks.gather(list(answers.values()))}
    if log is not None and ranks.rank == 0:
        log.finish(answers[question.question_id] for question in questions)
    seconds = time.perf_counter() - start
    return score(
        benchmark,
        questions,
        answers,
        style=style,
        blank_images=blank_images,
        seconds=seconds,
        tokens=tokens,
        run=identity,
    )


def _work(
    backend: Backend,
    benchmark: Benchmark,
    groups: Sequence[Sequence[Question]],
    answers: dict[str, Answer],
    pace: Pace,
    log: AnswerLog | None,
    progress: Progress | None,
) -> int:
    """Answer what is open, into ``answers`` and the log; the tokens made."""
    start = time.perf_counter()
    by_id = {question.question_id: question for group in groups for question in group}
    pending = [[q for q in group if q.question_id not in answers] for group in groups]
    kept = [name for name in by_id if name in answers]
    points = sum(score_answer(benchmark.rule, answers[name], by_id[name]) for name in kept)
    done, tokens = len(kept), 0
    for new in answer_all(backend, [group for group in pending if group], pace):
        if log is not None:
            log.append(new)
        for answer in new:
            answers[answer.question_id] = answer
            points += score_answer(benchmark.rule, answer, by_id[answer.question_id])
            tokens += answer.tokens
        done += len(new)
        if progress is not None:
            seconds = time.perf_counter() - start
            progress(
                Standing(
                    done=done,
                    total=len(by_id),
                    score=points / done,
                    seconds=seconds,
                    seconds_left=seconds / (done - len(kept)) * (len(by_id) - done),
                )
            )
    return tokens


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
    questions = find_questions(benchmark, data_root, limit=run.get("limit"))
    open_questions = [q.question_id for q in questions if q.question_id not in answers]
    if open_questions:
        raise DataError(
            f"{answers_path}: {len(open_questions)} of {len(questions)} questions have no answer, "
            f"first {open_questions[0]!r}; run the evaluation again to finish it"
        )
    settings = ("benchmark", "style", "blank_images", "limit", "questions")
    style = run.get("style", "native")
    if run.get("questions") != _digest(questions, benchmark, style):
        # Not refused: a prompt that was mended since leaves old answers what they were.
        logger.warning(
            "%s: the questions, their prompts or their order are not those that were answered; the "
            "scores are right only where an answer's id still means the same question",
            answers_path,
        )
    return score(
        benchmark,
        questions,
        answers,
        style=style,
        blank_images=bool(run.get("blank_images")),
        seconds=time.perf_counter() - start,
        run={key: value for key, value in run.items() if key not in settings},
    )


def examples(
    benchmark: Benchmark, data_root: str | Path, answers_path: str | Path, *, count: int
) -> list[dict[str, Any]]:
    """Questions with answers, spread evenly over the file: what a report shows.

    Returns:
        Up to ``count`` of ``{"benchmark", "question", "answer", "truth", "right", "media"}``.
    """
    run, answers = read_answers(Path(answers_path))
    questions = find_questions(benchmark, data_root, limit=run.get("limit"))
    answered = [question for question in questions if question.question_id in answers]
    count = min(count, len(answered))
    chosen = [answered[len(answered) * i // count] for i in range(count)]
    return [
        {
            "benchmark": benchmark.name,
            "question": question.text,
            "answer": answers[question.question_id].prediction,
            "truth": question.references[0],
            "right": score_answer(benchmark.rule, answers[question.question_id], question) == 1,
            "media": [str(medium.source) for medium in question.media],
        }
        for question in chosen
    ]


def _digest(questions: Sequence[Question], benchmark: Benchmark, style: PromptStyle) -> str:
    """Changes when anything that can change an answer does, but not where the media lie."""
    settings = (benchmark.prompt(style), benchmark.prompt_suffix, benchmark.max_new_tokens)
    asked = [
        (
            q.question_id,
            q.as_published or q.text,
            q.messages,
            q.choices,
            [(Path(str(m.source)).name, m.start, m.end) for m in q.media],
        )
        for q in questions
    ]
    return hashlib.sha256(repr((settings, asked)).encode()).hexdigest()[:16]
