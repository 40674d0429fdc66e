"""MovieChat-1K: long scenes of films, described, and asked about as a whole and at moments."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from smolvlm2.data.ledger import LeftOutError
from smolvlm2.data.sources.fields import (
    below,
    caption_of,
    object_of,
    objects_of,
    question_turns,
    stem_of,
)
from smolvlm2.data.sources.prompts import MOVIECHAT, pick_prompt
from smolvlm2.data.sources.record import Adapter, RawMedium, Reader, Record
from smolvlm2.processing.prompt_strings import clock


@dataclass(frozen=True, kw_only=True)
class MovieChat(Adapter):
    """A JSON a film in ``jsons``, the film in ``raw_videos``.

    The subset ``descriptions`` has a sample a film: its description, then the questions about the
    whole. The subset ``breakpoints`` has a sample for every question about a moment, with the time
    in the question.
    """

    reader: ClassVar[Reader] = "json_files"

    def record_files(self, raw: Path) -> list[Path]:
        """The folder ``jsons``."""
        return [path for path in (raw / "jsons",) if path.is_dir()]

    def archives(self, raw: Path) -> list[Path]:
        """None: films are loose files; the features in ``movies`` are not needed."""
        return []

    def records(self, row: dict[str, Any], file: str) -> Iterator[Record | LeftOutError]:
        """Take the description and the global questions, then each breakpoint."""
        info = object_of(row.get("info"), "info")
        path = info.get("video_path") or f"{stem_of(file)}.mp4"
        if not isinstance(path, str):
            raise LeftOutError("unreadable_record", f"info.video_path is {path!r}; expected a path")
        paths = below(("raw_videos", ""), path)
        name = stem_of(path) or path
        try:
            yield Record(
                native_id=name,
                turns=_description(row, name),
                media=[RawMedium(kind="video", paths=paths)],
                subset="descriptions",
            )
        except LeftOutError as problem:
            yield problem
        try:
            moments = objects_of(row.get("breakpoint"), "breakpoint")
        except LeftOutError as problem:
            yield problem
            return
        for number, moment in enumerate(moments):
            try:
                yield _breakpoint(f"{name}/breakpoint-{number}", moment, info, paths)
            except LeftOutError as problem:
                yield problem


def _description(row: dict[str, Any], name: str) -> list[tuple[Any, Any]]:
    """The description's turns and those of the global questions; the questions may stand alone.

    Raises:
        LeftOutError: There is neither.
    """
    turns = question_turns(row.get("global"), "global")
    try:
        caption = caption_of(row.get("caption"), f"the description of {name!r}")
    except LeftOutError:
        if not turns:
            raise
        return turns
    return [("user", pick_prompt(MOVIECHAT, name)), ("assistant", caption), *turns]


def _breakpoint(
    name: str, moment: dict[str, Any], info: dict[str, Any], paths: tuple[str, ...]
) -> Record:
    """A question about one moment; ``time`` is the number of a frame.

    Raises:
        LeftOutError: The moment or the question cannot be told (``incomplete_record``).
    """
    frame, fps = _number(moment.get("time")), _number(info.get("fps"))
    if frame is None or frame < 0 or fps is None or fps <= 0:
        raise LeftOutError(
            "incomplete_record",
            f"{name}: frame {moment.get('time')!r} at {info.get('fps')!r} frames a second; "
            "expected two numbers, the rate above 0",
        )
    seconds = frame / fps
    question = moment.get("question")
    if not isinstance(question, str) or not question.strip():
        raise LeftOutError("incomplete_record", f"{name}: question {question!r}; expected text")
    return Record(
        native_id=name,
        turns=[
            ("user", f"At {clock(seconds)}: {question.strip()}"),
            ("assistant", moment.get("answer")),
        ],
        # A moment past the end is seen where the film has been probed.
        media=[RawMedium(kind="video", paths=paths, min_duration=seconds)],
        subset="breakpoints",
    )


def _number(value: Any) -> float | None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if is_number and math.isfinite(value) else None
