"""The answer log: a JSON line an answer, appended as they come; a killed run continues from it.

While a run goes on, every rank appends to a log of its own. At the end one file is left, in the
order of the questions: the same bytes however often the run was killed and on how many ranks.
"""

import hashlib
import json
import logging
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from smolvlm2.errors import DataError, DataNotFoundError

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What a model answered to one question."""

    question_id: str
    """Of the question file."""
    prediction: str
    """Text of the answer; empty where there is none."""
    tokens: int = 0
    """Tokens of the answer."""
    problem: str | None = None
    """Why there is no answer: an unreadable medium, no options, no reply in time."""


class AnswerLog:
    """JSONL files whose first line says which run their answers belong to."""

    def __init__(self, path: Path, run: dict[str, Any], *, rank: int = 0, world: int = 1) -> None:
        """Take up every answer of the same run, whichever rank of however many wrote it.

        Args:
            path: Where the finished file will be.
            run: What identifies the run; answers of another are not taken over, nor lost: their
                file gets a name of its own, under which the same run finds them again.
            rank: Of this process.
            world: Number of processes.

        Raises:
            DataError: A line of the same run is no answer.
        """
        self.path, self.run, self.world = path, run, world
        self.part = _part(path, rank, world)
        self.answers: dict[str, Answer] = {}
        path.parent.mkdir(parents=True, exist_ok=True)
        own: list[Answer] = []
        for file in [path, *_others(path)]:
            lines = _complete_lines(file)
            if not lines or lines[0] != run:
                continue
            # What could not be answered is tried again: the cause may be mended.
            read = [answer for answer in _answers(file, lines) if not answer.problem]
            self.answers.update((answer.question_id, answer) for answer in read)
            if file == self.part:
                own = read
        if self.part == path:
            own = list(self.answers.values())
        # Written anew without the half line that a kill may have left.
        self._replace(self.part, own)

    def append(self, answers: Sequence[Answer]) -> None:
        """Keep answers, on disk before returning."""
        with self.part.open("a", encoding="utf-8") as stream:
            stream.writelines(_line(asdict(answer)) for answer in answers)
            stream.flush()
            os.fsync(stream.fileno())
        self.answers.update((answer.question_id, answer) for answer in answers)

    def finish(self, answers: Iterable[Answer]) -> None:
        """Leave one file with all answers, in the given order; for one rank to call."""
        self._replace(self.path, list(answers))
        for file in _others(self.path):
            if _complete_lines(file)[:1] == [self.run]:
                file.unlink(missing_ok=True)

    def _replace(self, file: Path, answers: Sequence[Answer]) -> None:
        """Write a file anew; one with answers of another run is moved out of the way first."""
        lines = _complete_lines(file)
        if lines[1:] and lines[0] != self.run:
            digest = hashlib.sha256(_line(lines[0]).encode()).hexdigest()[:8]
            kept = file.with_name(f"{file.stem}.{digest}.jsonl")
            file.replace(kept)
            changed = [key for key in self.run if self.run[key] != lines[0].get(key)]
            logger.warning(
                "%s: held %d answers of a run with another %s; they are in %s now",
                *(file, len(lines) - 1, ", ".join(changed) or "set of settings", kept.name),
            )
        _write(file, self.run, answers)


def read_answers(path: Path) -> tuple[dict[str, Any], dict[str, Answer]]:
    """The run that a log belongs to, and its answers by question id.

    Raises:
        DataNotFoundError: No such file.
        DataError: Its first line does not describe a run, or a later one no answer.
    """
    if not path.is_file():
        raise DataNotFoundError(f"{path}: no such file; `smolvlm2 evaluate` writes it")
    lines = _complete_lines(path)
    if not lines or "benchmark" not in lines[0]:
        raise DataError(f"{path}: not an answer log; its first line does not name a benchmark")
    return lines[0], {answer.question_id: answer for answer in _answers(path, lines)}


def fingerprint(model: Any) -> str:
    """A short digest of a model's weights, so that answers of other weights are not taken over."""
    import torch

    digest = hashlib.sha256()
    tensors: Mapping[str, Any] = getattr(model, "state_dict", dict)()
    for name, tensor in tensors.items():
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()[:16]


def _part(path: Path, rank: int, world: int) -> Path:
    return path if world == 1 else path.with_name(f"{path.stem}.rank{rank}of{world}.jsonl")


def _others(path: Path) -> list[Path]:
    """Logs beside the finished file: of ranks, and of other runs."""
    return sorted(path.parent.glob(f"{path.stem}.*.jsonl"))


def _write(path: Path, run: dict[str, Any], answers: Sequence[Answer]) -> None:
    temporary = path.with_name(f".{path.name}.partial")
    temporary.write_text("".join(map(_line, [run, *map(asdict, answers)])), encoding="utf-8")
    temporary.replace(path)


def _line(entry: dict[str, Any]) -> str:
    return json.dumps(entry, ensure_ascii=False) + "\n"


def _answers(path: Path, lines: Sequence[dict[str, Any]]) -> list[Answer]:
    try:
        return [Answer(**line) for line in lines[1:]]
    except TypeError as error:
        known = ", ".join(Answer.__dataclass_fields__)
        raise DataError(
            f"{path}: holds a line that is no answer ({error}); expected {known}; mend or remove it"
        ) from error


def _complete_lines(path: Path) -> list[dict[str, Any]]:
    if not path.is_file():
        return []
    entries = []
    # Split at line feeds only: an answer may hold other separators that splitlines() knows.
    for line in path.read_text(encoding="utf-8", errors="replace").split("\n"):
        try:
            entries.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return [entry for entry in entries if isinstance(entry, dict)]
