"""FineVideo: clips of some minutes inside parquet, with questions that often need the sound."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from smolvlm2.data.geometry import FLAGS
from smolvlm2.data.ledger import LeftOutError
from smolvlm2.data.sources.fields import object_of, objects_of, visible
from smolvlm2.data.sources.record import Adapter, RawMedium, Reader, Record

NEEDS_SOUND = re.compile(
    r"\b("
    r"say(s|ing)?|said|tell(s|ing)?|told|talk(s|ed|ing)?|speak(s|ers?|ing)?|spoke(n)?|speech(es)?|"
    r"voice(s|d)?|voice-?overs?|narrat\w+|mention(s|ed|ing)?|comment(s|ed|ary|ator|ators)?|"
    r"quot(e|es|ed)|dialogues?|conversations?|pronounc\w+|accents?|whisper\w*|shout\w*|yell\w*|"
    r"scream\w*|hear(s|d|ing)?|listen\w*|sound(s|ed|ing|tracks?)?|audi(o|ble|bly)|nois(e|es|y)|"
    r"loud(er|ly)?|silen(t|ce|tly)|music(al|ally)?|songs?|sing(s|ing)?|sang|sung|lyrics?|"
    r"melod(y|ies|ic)|tunes?|tone"
    r")\b",
    re.IGNORECASE,
)
"""Words of questions and answers that are about what is heard. The list is ours. It errs towards
the sound: a question too few costs less than one that nobody can answer from frames.

Source: the questions were asked for with the sound in mind (fineVideo, gemini_prompt.txt)."""


@dataclass(frozen=True, kw_only=True)
class FineVideo(Adapter):
    """Rows of ``mp4`` and ``json``; a video is a sample, its questions are the turns.

    Questions that need the sound form a second sample of the same video, flagged
    ``speech_dependent``. Whether ``json`` is a struct or text was not confirmed: both are read.
    """

    reader: ClassVar[Reader] = "parquet"
    columns: ClassVar[tuple[str, ...]] = ("mp4", "json")

    def record_files(self, raw: Path) -> list[Path]:
        """All parquet files, by name."""
        return visible(raw, raw.rglob("*.parquet"))

    def archives(self, raw: Path) -> list[Path]:
        """None: videos are in the rows."""
        return []

    def records(self, row: dict[str, Any], file: str) -> Iterator[Record]:
        """Take the questions that the frames may answer, then the others."""
        content = object_of(_facts(row["json"]).get("content_metadata"), "content_metadata")
        pairs = objects_of(content.get("qAndA"), "qAndA")
        if not pairs:
            raise LeftOutError("no_conversation", "qAndA is empty; expected at least one question")
        if not row["mp4"]:
            raise LeftOutError("missing_media", "mp4 is empty; expected a video")
        clip = RawMedium(kind="video", data=row["mp4"])
        for spoken in (False, True):
            turns: list[tuple[Any, Any]] = []
            for pair in pairs:
                question, answer = pair.get("question"), pair.get("answer")
                if needs_sound(question, answer) is spoken:
                    turns += [("user", question), ("assistant", answer)]
            if turns:
                flags = FLAGS["speech_dependent"] if spoken else 0
                yield Record(native_id=None, turns=turns, media=[clip], subset="qa", flags=flags)


def needs_sound(question: Any, answer: Any) -> bool:
    """Whether a question or its answer is about what is said, sung or otherwise heard."""
    texts = (text for text in (question, answer) if isinstance(text, str))
    return any(NEEDS_SOUND.search(text) for text in texts)


def _facts(value: Any) -> dict[str, Any]:
    """The ``json`` column, a struct or text."""
    if isinstance(value, str | bytes):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError) as error:
            raise LeftOutError("unreadable_record", f"'json' is no JSON ({error})") from error
    return object_of(value, "json")
