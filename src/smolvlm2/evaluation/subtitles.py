"""Subtitle files (SubRip): who says what, when."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

_TIMES = re.compile(r"(\d+):(\d\d):(\d\d)[,.](\d{1,3})\s*-->\s*(\d+):(\d\d):(\d\d)[,.](\d{1,3})")
_MARKUP = re.compile(r"<[^<>]*>|\{\\[^{}]*\}")


@dataclass(frozen=True)
class Subtitle:
    """One line of speech."""

    start: float
    """First second."""
    end: float
    """Last second."""
    text: str
    """Its words, without markup."""


def parse_subtitles(data: bytes) -> list[Subtitle]:
    """Read an ``.srt`` file; blocks without times are passed over, markup is dropped.

    >>> parse_subtitles(b"1\\n00:00:01,500 --> 00:00:03,000\\n<i>Hello</i>\\nthere\\n")
    [Subtitle(start=1.5, end=3.0, text='Hello there')]
    """
    found = []
    text = data.decode("utf-8-sig", errors="replace").replace("\r\n", "\n").replace("\r", "\n")
    for block in re.split(r"\n[ \t]*\n", text):
        lines = block.strip().split("\n")
        for place, line in enumerate(lines):
            times = _TIMES.search(line)
            if times is None:
                continue
            words = " ".join(_MARKUP.sub("", " ".join(lines[place + 1 :])).split())
            if words:
                found.append(Subtitle(_seconds(times, 1), _seconds(times, 5), words))
            break
    return found


def shown_at(subtitles: Sequence[Subtitle], seconds: Sequence[float]) -> list[str]:
    """Words on the screen at any of the given times, each once, in order of time."""
    return [line.text for line in subtitles if any(line.start <= t < line.end for t in seconds)]


def _seconds(match: re.Match[str], first: int) -> float:
    hours, minutes, seconds = (int(match[first + i]) for i in range(3))
    return hours * 3600 + minutes * 60 + seconds + int(match[first + 3].ljust(3, "0")) / 1000
