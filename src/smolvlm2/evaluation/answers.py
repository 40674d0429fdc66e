"""The answer log: a JSON line an answer, appended as they come; a killed run continues from it."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from smolvlm2.errors import DataError, DataNotFoundError


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What a model answered to one question."""

    question_id: str
    """Of the question file."""
    prediction: str
    """Text of the answer; empty where a medium cannot be read."""
    problem: str | None = None
    """Why a medium cannot be read."""


class AnswerLog:
    """A JSONL file whose first line says which run its answers belong to."""

    def __init__(self, path: Path, run: dict[str, Any]) -> None:
        """Continue the file where its first line equals ``run``; start it over where not."""
        self.path = path
        self.answers: dict[str, Answer] = {}
        lines = _complete_lines(path)
        if lines and lines[0] == run:
            read = (Answer(**line) for line in lines[1:])
            # What could not be read is tried again: the file may have been mended.
            self.answers = {answer.question_id: answer for answer in read if not answer.problem}
        path.parent.mkdir(parents=True, exist_ok=True)
        # Written anew without the half line that a kill may have left.
        kept = [run, *map(asdict, self.answers.values())]
        temporary = path.with_name(f".{path.name}.partial")
        temporary.write_text("".join(map(_line, kept)), encoding="utf-8")
        temporary.replace(path)

    def append(self, answers: Sequence[Answer]) -> None:
        """Keep answers, on disk before returning."""
        with self.path.open("a", encoding="utf-8") as stream:
            stream.writelines(_line(asdict(answer)) for answer in answers)
        self.answers.update((answer.question_id, answer) for answer in answers)


def read_answers(path: Path) -> tuple[dict[str, Any], dict[str, Answer]]:
    """The run that a log belongs to, and its answers by question id.

    Raises:
        DataNotFoundError: No such file.
        DataError: Its first line does not describe a run.
    """
    if not path.is_file():
        raise DataNotFoundError(f"{path}: no such file; `smolvlm2 evaluate` writes it")
    lines = _complete_lines(path)
    if not lines or "benchmark" not in lines[0]:
        raise DataError(f"{path}: not an answer log; its first line does not name a benchmark")
    return lines[0], {line["question_id"]: Answer(**line) for line in lines[1:]}


def fingerprint(model: Any) -> str:
    """A short digest of a model's weights, so that answers of other weights are not taken over."""
    digest = hashlib.sha256()
    for name, tensor in getattr(model, "state_dict", dict)().items():
        values = tensor.detach().float()
        digest.update(f"{name} {tuple(values.shape)} {values.sum().item()!r} ".encode())
        digest.update(f"{values.abs().sum().item()!r}".encode())
    return digest.hexdigest()[:16]


def _line(entry: dict[str, Any]) -> str:
    return json.dumps(entry, ensure_ascii=False) + "\n"


def _complete_lines(path: Path) -> list[dict[str, Any]]:
    if not path.is_file():
        return []
    entries = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            entries.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return [entry for entry in entries if isinstance(entry, dict)]
