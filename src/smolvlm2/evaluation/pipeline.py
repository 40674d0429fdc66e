"""Questions to answers: decode ahead in threads, batch prompts of like shape, answer.

Questions that show the same medium form a group. A group is decoded once, by one thread, while the
model answers earlier ones.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import Any

from smolvlm2.errors import MediaError, PromptError
from smolvlm2.evaluation.answers import Answer
from smolvlm2.evaluation.backends import Asked, Backend, Reply
from smolvlm2.evaluation.questions import Question


@dataclass(frozen=True, kw_only=True)
class Pace:
    """How much is done at one time.

    None of it changes an answer in fp32. In half precision on a GPU the last bits of a logit depend
    on what it is computed with, so that a token which is almost as likely may be taken.
    """

    batch_size: int = 16
    """Most questions answered together."""
    batch_tiles: int = 512
    """Most tiles or frames answered together; a single question may have more."""
    workers: int = 2
    """Threads that decode ahead."""
    window: int = 4
    """Batches among which prompts of like shape are looked for."""

    def __post_init__(self) -> None:
        for name in ("batch_size", "batch_tiles", "workers", "window"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}, expected at least 1")


def group_by_media(questions: Sequence[Question]) -> list[list[Question]]:
    """Questions that show the same media, together; in the order of their first."""
    groups: dict[Any, list[Question]] = {}
    for question in questions:
        # Without media every question is a group of its own: there is nothing to share.
        key = question.media or question.question_id
        groups.setdefault(key, []).append(question)
    return list(groups.values())


def answer_all(
    backend: Backend, groups: Sequence[Sequence[Question]], pace: Pace
) -> Iterator[list[Answer]]:
    """Answer groups of questions; answers come in batches, in no particular order.

    What cannot be shown or asked gives an empty answer with the reason; nothing stops the run.
    """
    waiting: list[Asked] = []
    for asked, failed in _prepared(backend, groups, pace):
        if failed:
            yield failed
        waiting += asked
        while _full(waiting, pace):
            yield _answer(backend, _take(waiting, pace))
    while waiting:
        yield _answer(backend, _take(waiting, pace))


def _prepared(
    backend: Backend, groups: Sequence[Sequence[Question]], pace: Pace
) -> Iterator[tuple[list[Asked], list[Answer]]]:
    """Groups in order, each prepared by a thread; at most a few are ready and wait."""
    remaining = iter(groups)
    futures: deque[Future[tuple[list[Asked], list[Answer]]]] = deque()
    with ThreadPoolExecutor(pace.workers, thread_name_prefix="decode") as pool:
        try:
            ahead = 2 * pace.workers
            futures.extend(pool.submit(_prepare, backend, g) for g in islice(remaining, ahead))
            while futures:
                ready = futures.popleft().result()
                futures.extend(pool.submit(_prepare, backend, g) for g in islice(remaining, 1))
                yield ready
        finally:
            for future in futures:
                future.cancel()


def _prepare(backend: Backend, questions: Sequence[Question]) -> tuple[list[Asked], list[Answer]]:
    askable = [question for question in questions if not question.problem]
    failed = [_failure(q, q.problem) for q in questions if q.problem]
    if not askable:
        return [], failed
    try:
        media = [backend.decode(medium) for medium in askable[0].media]
    except MediaError as error:
        problem = f"{error.reason}: {error}"
        return [], failed + [_failure(question, problem) for question in askable]
    asked = []
    for question in askable:
        try:
            asked.append(backend.ask(question, media))
        except (PromptError, MediaError) as error:
            failed.append(_failure(question, f"prompt: {error}"))
    return asked, failed


def _full(waiting: Sequence[Asked], pace: Pace) -> bool:
    tiles = sum(asked.shape[0] for asked in waiting)
    return len(waiting) >= pace.window * pace.batch_size or tiles >= pace.window * pace.batch_tiles


def _take(waiting: list[Asked], pace: Pace) -> list[Asked]:
    """Take the largest prompts, and those most like them, out of ``waiting``."""
    waiting.sort(key=lambda asked: (asked.shape, asked.question.question_id))
    batch = [waiting.pop()]
    tiles = batch[0].shape[0]
    while waiting and len(batch) < pace.batch_size:
        tiles += waiting[-1].shape[0]
        if tiles > pace.batch_tiles:
            break
        batch.append(waiting.pop())
    return batch


def _answer(backend: Backend, batch: Sequence[Asked]) -> list[Answer]:
    try:
        replies = backend.answer(batch)
    except PromptError as error:
        if len(batch) > 1:  # one by one, to find the one that does not fit
            return [answer for asked in batch for answer in _answer(backend, [asked])]
        replies = [Reply(text="", tokens=0, problem=f"prompt: {error}")]
    return [
        Answer(
            question_id=asked.question.question_id,
            prediction=reply.text,
            tokens=reply.tokens,
            problem=reply.problem,
        )
        for asked, reply in zip(batch, replies, strict=True)
    ]


def _failure(question: Question, problem: str | None) -> Answer:
    return Answer(question_id=question.question_id, prediction="", problem=problem)
