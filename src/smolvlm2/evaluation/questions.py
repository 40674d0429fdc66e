"""What a model is asked, and the reader of this package's own question files."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from smolvlm2.errors import DataError, DataNotFoundError, MediaError
from smolvlm2.evaluation.choice_letters import letters
from smolvlm2.evaluation.media_index import FrameFolder, LooseFile, Source, ZipMember

_REQUIRED = ("question_id", "messages", "answer")


@dataclass(frozen=True)
class Medium:
    """A picture or clip that a question shows. Equal media are decoded once."""

    kind: Literal["image", "video"]
    source: Source
    """Where it lies."""
    start: float | None = None
    """First second of the part that is shown; None: from the start."""
    end: float | None = None
    """Last second; None: to the end."""

    def open(self) -> bytes | Path:
        """Bytes or path of its file.

        Raises:
            MediaError: It cannot be read, or is a folder of frames where a file is wanted.
        """
        if isinstance(self.source, FrameFolder):
            raise MediaError(
                f"{self}: a folder of frames where a file is wanted", reason="unsupported_media"
            )
        return self.source.open()

    def __str__(self) -> str:
        bounds = "" if self.start is None and self.end is None else f" [{self.start}, {self.end}] s"
        return f"{self.source}{bounds}"


@dataclass(frozen=True, kw_only=True)
class Question:
    """One question of a benchmark."""

    question_id: str
    """Unique within the benchmark."""
    text: str
    """Its own words, for a prompt and for people; without options where they could be cut off."""
    media: tuple[Medium, ...]
    """What it shows, in order."""
    references: tuple[str, ...]
    """Accepted answers."""
    choices: tuple[str, ...] = ()
    """Texts of what the answer is chosen from, without letters; empty for an open question."""
    letter: str = ""
    """Letter of the right choice, where the answer is a letter."""
    groups: Mapping[str, str] = field(default_factory=dict)
    """Value in each group that scores are split by."""
    cluster: str = ""
    """Questions with the same value are not independent; empty: it stands alone."""
    messages: tuple[Mapping[str, Any], ...] = ()
    """Chat messages, media as bare ``{"type": ...}`` items, where the question brings its own."""
    as_published: str = ""
    """Question and options as one text, where the file holds them so."""
    option_lines: tuple[str, ...] = ()
    """The options with their letters, where the file has them so."""
    subtitles: LooseFile | ZipMember | None = None
    """Subtitle file of the video."""
    problem: str | None = None
    """Why it cannot be asked; it counts as wrong then."""


def read_questions(path: Path, *, limit: int | None = None) -> list[Question]:
    """Read a question file: one JSON object a line, media as paths beside the file.

    Args:
        path: The JSONL file; media paths are relative to its folder.
        limit: Only so many, from the start.

    Raises:
        DataNotFoundError: No such file.
        DataError: A line is no question, ids repeat, or media and placeholders do not match.
    """
    try:
        # At line feeds only: a text may hold other separators that splitlines() knows.
        lines = path.read_text(encoding="utf-8").split("\n")
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
    check_ids(questions, str(path))
    return questions


def check_ids(questions: list[Question], where: str) -> None:
    """Refuse a question id that appears twice (DataError)."""
    seen: set[str] = set()
    for question in questions:
        if question.question_id in seen:
            raise DataError(
                f"{where}: question_id {question.question_id!r} appears twice; remove the repeated "
                f"row, or an older download that lies beside the newer one"
            )
        seen.add(question.question_id)


def _parse(line: str, where: str, folder: Path) -> Question:
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise DataError(f"{where}: not JSON: {error.msg}") from error
    missing = [key for key in _REQUIRED if not isinstance(row, dict) or key not in row]
    if missing:
        raise DataError(f"{where}: {missing[0]!r} is missing; expected {', '.join(_REQUIRED)}")
    try:
        content = [turn["content"] for turn in row["messages"]]
        items = [item for items in content if not isinstance(items, str) for item in items]
        shown = [item for item in items if item["type"] != "text"]
        kinds = [item["type"] for item in shown]
        # As rows for training name them, beside the medium, or in one list.
        named = row["media"] if "media" in row else [i["path"] for i in shown if "path" in i]
        paths = [folder / name for name in named]
        answers = row["answer"] if isinstance(row["answer"], list) else [row["answer"]]
        references = tuple(str(answer) for answer in answers if answer is not None)
        choices = tuple(map(str, row.get("choices") or ()))
        last = content[-1] if content else ""
        question = Question(
            question_id=str(row["question_id"]),
            text=last if isinstance(last, str) else _words(last),
            messages=tuple(row["messages"]),
            media=tuple(
                Medium(kind, LooseFile(path)) for kind, path in zip(kinds, paths, strict=False)
            ),
            references=references,
            choices=choices,
            letter=_letter(references, choices),
            groups={"type": row.get("question_type") or ""},
            problem=None if references else "no_answer: the file gives no accepted answer",
        )
    except (TypeError, KeyError, AttributeError) as error:
        raise DataError(f"{where}: malformed messages or media ({error!r})") from error
    if not question.messages:
        raise DataError(f"{where}: messages is empty; expected at least one turn")
    if len(kinds) != len(paths):
        raise DataError(f"{where}: {len(paths)} media for {len(kinds)} placeholders")
    return question


def _letter(references: tuple[str, ...], choices: tuple[str, ...]) -> str:
    """Letter of the right choice, whether the answer is its text or the letter itself."""
    known = letters(len(choices)) if 0 < len(choices) <= 26 else ""
    for answer in references:
        if answer in choices and known:
            return known[choices.index(answer)]
        if len(answer) == 1 and answer in known:
            return answer
    return ""


def _words(items: list[dict[str, Any]]) -> str:
    return " ".join(item["text"] for item in items if item["type"] == "text").strip()
