"""All media of a source by the paths that rows may use: an SQLite file, so ten million fit."""

import functools
import json
import re
import sqlite3
import unicodedata
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from smolvlm2.data.inputs import Input
from smolvlm2.data.ledger import LeftOutError
from smolvlm2.data.media import Frame, MediaLocator
from smolvlm2.data.media_facts import HOLDS_TEXT, MediaFacts, digest_of
from smolvlm2.data.part_files import read_batches
from smolvlm2.data.parts import require_duration, require_usable
from smolvlm2.data.sources.archives import member_keys
from smolvlm2.data.workplace import Workplace

_INSERT_ROWS = 10_000
_IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif")
"""A text named like these, in a folder of frames, is a frame that was lost."""
_NUMBER = re.compile(r"(\d+)")


def build_media_index(place: Workplace, inputs: Sequence[Input], target: Path) -> None:
    """Write the index.

    Args:
        place: Folders and adapter; the parts of all inputs are there.
        inputs: Of the source, in order: among equally likely paths the first input wins.
        target: The file to write, of this run alone.
    """
    target.unlink(missing_ok=True)
    connection = sqlite3.connect(target)
    try:
        # A run that is killed begins the index anew, so there is nothing to protect.
        connection.execute("PRAGMA journal_mode = OFF")
        connection.execute("PRAGMA synchronous = OFF")
        connection.execute("CREATE TABLE media (number INTEGER PRIMARY KEY, facts TEXT)")
        connection.execute("CREATE TABLE paths (path TEXT, likelihood INTEGER, number INTEGER)")
        number = 0
        for item in inputs:
            if item.kind == "rows":
                continue
            for batch in read_batches(place.part(item.name)):
                names, facts = batch.column(0).to_pylist(), batch.column(1).to_pylist()
                rows = enumerate(facts, start=number)
                connection.executemany("INSERT INTO media VALUES (?, ?)", rows)
                for start in range(0, len(names), _INSERT_ROWS):
                    paths = _paths(item, names[start : start + _INSERT_ROWS], number + start)
                    connection.executemany("INSERT INTO paths VALUES (?, ?, ?)", paths)
                number += len(names)
        # Sorted once at the end: far cheaper than a tree kept in order while it grows.
        connection.execute("CREATE INDEX by_path ON paths (path, likelihood, number)")
        connection.commit()
    finally:
        connection.close()


def _paths(item: Input, names: list[str], first: int) -> Iterator[tuple[str, int, int]]:
    folder, _, archive = item.name.rpartition("/")
    for number, name in enumerate(names, start=first):
        keys = [name] if item.kind == "loose" else member_keys(folder, archive, name)
        for likelihood, key in enumerate(keys):
            yield key, likelihood, number


class MediaIndex:
    """Finds the media that rows name."""

    def __init__(self, path: Path) -> None:
        """Open a finished index.

        Args:
            path: The file.
        """
        uri = f"{path.absolute().as_uri()}?mode=ro&immutable=1"
        self._connection = sqlite3.connect(uri, uri=True)
        # Rows that ask about one clip stand together.
        self._file = functools.lru_cache(1024)(self._read_file)

    def find(self, wanted: dict[str, Any]) -> MediaFacts:
        """Facts of a medium.

        Args:
            wanted: ``kind``, ``paths`` by likelihood, perhaps ``frame_rate`` and ``min_duration``.

        Raises:
            LeftOutError: It is missing, unsafe, unusable, of another kind, or too short.
        """
        kind, paths = wanted["kind"], wanted["paths"]
        rate = wanted.get("frame_rate")
        for path in (each for given in paths for each in _spellings(_normal(given))):
            facts = self._folder(path, rate) if rate else self._file(path)
            if facts is None:
                continue
            require_usable(facts, path)
            assert facts.locator is not None
            if facts.locator.kind != kind:
                detail = f"{path}: is of kind {facts.locator.kind}; expected {kind}"
                raise LeftOutError("unsupported_media", detail)
            require_duration(facts, wanted.get("min_duration", 0.0))
            return facts
        self._refuse_links(paths)
        shown = " or ".join(repr(path) for path in paths)
        raise LeftOutError("missing_media", f"{shown} is in no archive and no file")

    def _read_file(self, path: str) -> MediaFacts | None:
        found = self._connection.execute(
            "SELECT facts FROM paths JOIN media USING (number) WHERE path = ?"
            " ORDER BY likelihood, number LIMIT 1",
            (path,),
        ).fetchone()
        return None if found is None else MediaFacts.from_json(json.loads(found[0]))

    def _folder(self, path: str, rate: float) -> MediaFacts | None:
        """The images directly in a folder as one clip; None where there is no such folder."""
        # "0" follows "/" in the alphabet of bytes.
        found = self._connection.execute(
            "SELECT path, likelihood, facts FROM paths JOIN media USING (number)"
            " WHERE path > ? AND path < ? ORDER BY likelihood, path, number",
            (f"{path}/", f"{path}0"),
        )
        frames: dict[str, MediaFacts] = {}
        best = None
        for name, likelihood, text in found:
            inner = name[len(path) + 1 :]
            if "/" in inner or name in frames or best not in (None, likelihood):
                continue
            facts = MediaFacts.from_json(json.loads(text))
            if facts.detail == HOLDS_TEXT and not inner.lower().endswith(_IMAGE_SUFFIXES):
                continue
            require_usable(facts, name)
            best, frames[name] = likelihood, facts
        if not frames:
            return None
        names = sorted(frames, key=_natural)
        return _as_clip([frames[name] for name in names], path, rate)

    def _refuse_links(self, paths: Sequence[str]) -> None:
        """Say so where a path passes a link instead of leading nowhere."""
        for path in paths:
            for parent in PurePosixPath(path).parents:
                facts = self._file(parent.as_posix())
                if facts is not None and facts.reason == "unsafe_path":
                    raise LeftOutError("unsafe_path", f"{path!r} passes a link: {facts.detail}")

    def close(self) -> None:
        """Close the file."""
        self._connection.close()


def _as_clip(images: list[MediaFacts], path: str, rate: float) -> MediaFacts:
    frames = []
    for number, facts in enumerate(images):
        place = facts.locator
        assert place is not None
        if place.kind != "image":
            detail = f"{path}: holds a {place.kind}; expected a folder of images"
            raise LeftOutError("unsupported_media", detail)
        frames.append(Frame(place.path, place.offset, place.size, number / rate))
    duration = len(frames) / rate
    return MediaFacts(
        locator=MediaLocator("video", frames=tuple(frames), duration=duration),
        digest=digest_of("".join(facts.digest for facts in images).encode("ascii")),
        width=images[0].width,
        height=images[0].height,
        duration=duration,
        fps=rate,
        frames=len(frames),
    )


def _normal(path: str) -> str:
    """A path without ``./``, ``//`` and a slash at its end; most are without."""
    is_odd = "./" in path or "//" in path or path.endswith("/")
    return PurePosixPath(path).as_posix() if is_odd else path


def _spellings(path: str) -> tuple[str, ...]:
    """A path as it was given, then with accents joined to their letters or apart from them.

    A Mac stores names with accents apart and finds them either way; rows have them as typed.
    """
    if path.isascii():
        return (path,)
    forms = (unicodedata.normalize(form, path) for form in ("NFC", "NFD"))
    return tuple(dict.fromkeys((path, *forms)))


def _natural(name: str) -> list[tuple[int, int | str]]:
    """Sort key under which frame 10 comes after frame 9."""
    return [(0, int(part)) if part.isdecimal() else (1, part) for part in _NUMBER.split(name)]
