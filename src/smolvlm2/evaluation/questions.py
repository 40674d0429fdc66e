"""Held-out questions: one JSON object a line, media as paths beside the file."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from smolvlm2.errors import DataError, DataNotFoundError

_REQUIRED = ("question_id", "messages", "answer")


@dataclass(frozen=True, kw_only=True)
class Question:
    """One line of a question file."""

    question_id: str
    """Unique within the file."""
    messages: list[dict[str, Any]]
    """Chat messages; images and videos are bare ``{"type": ...}`` placeholders."""
    media: tuple[Path, ...]
    """Files for the placeholders, in order."""
    references: tuple[str, ...]
    """Accepted answers."""
    choices: tuple[str, ...] = ()
    """What the answer is chosen from; empty for an open question."""
    question_type: str = ""
    """Group for the scores by type."""

    @property
    def text(self) -> str:
        """The last turn's words, for people."""
        content = self.messages[-1]["content"]
        if isinstance(content, str):
            return content
        return " ".join(item["text"] for item in content if item["type"] == "text").strip()

    def conversation(self, suffix: str = "") -> list[dict[str, Any]]:
        """The messages with each medium's path in its place, and ``suffix`` as a last line."""
        paths = iter(self.media)
        turns = []
        for message in self.messages:
            content = message["content"]
            items = [{"type": "text", "text": content}] if isinstance(content, str) else content
            turns.append(
                {
                    **message,
                    "content": [
                        item if item["type"] == "text" else {**item, "path": str(next(paths))}
                        for item in items
                    ],
                }
            )
        if suffix:
            turns[-1]["content"] = [*turns[-1]["content"], {"type": "text", "text": f"\n{suffix}"}]
        return turns


def read_questions(path: Path, *, limit: int | None = None) -> list[Question]:
    """Read a question file.

    Args:
        path: The JSONL file; media paths are relative to its folder.
        limit: Only so many, from the start.

    Raises:
        DataNotFoundError: No such file.
        DataError: A line is no question, ids repeat, or media and placeholders do not match.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError as error:
        raise DataNotFoundError(
            f"{path}: no such file; `smolvlm2 demo-data OUT` writes the demo's questions under "
            f"OUT/held_out"
        ) from error
    questions: list[Question] = []
    for number, line in enumerate(lines, start=1):
        if limit is not None and len(questions) >= limit:
            break
        if line.strip():
            questions.append(_parse(line, f"{path}:{number}", path.parent))
    if not questions:
        raise DataError(f"{path}: found no questions")
    seen: set[str] = set()
    for question in questions:
        if question.question_id in seen:
            raise DataError(f"{path}: question_id {question.question_id!r} appears twice")
        seen.add(question.question_id)
    return questions


def _parse(line: str, where: str, folder: Path) -> Question:
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise DataError(f"{where}: not JSON: {error.msg}") from error
    missing = [key for key in _REQUIRED if not isinstance(row, dict) or key not in row]
    if missing:
        raise DataError(f"{where}: {missing[0]!r} is missing; expected {', '.join(_REQUIRED)}")
    try:
        answer = row["answer"]
        question = Question(
            question_id=str(row["question_id"]),
            messages=row["messages"],
            media=tuple(folder / name for name in row.get("media", ())),
            references=tuple(answer) if isinstance(answer, list) else (str(answer),),
            choices=tuple(row.get("choices") or ()),
            question_type=row.get("question_type") or "",
        )
        content = [turn["content"] for turn in question.messages]
        items = [item for items in content if not isinstance(items, str) for item in items]
        placeholders = sum(item["type"] != "text" for item in items)
    except (TypeError, KeyError, AttributeError) as error:
        raise DataError(f"{where}: malformed messages or media ({error!r})") from error
    if not question.messages:
        raise DataError(f"{where}: messages is empty; expected at least one turn")
    if placeholders != len(question.media):
        raise DataError(f"{where}: {len(question.media)} media for {placeholders} placeholders")
    return question
