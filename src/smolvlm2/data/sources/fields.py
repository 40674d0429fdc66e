"""Fields of published rows: conversations, paths and ids, in whatever form they were written."""

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from smolvlm2.data.ledger import LeftOutError
from smolvlm2.data.sources.archives import is_archive
from smolvlm2.data.sources.record import RawMedium

NOTES = (
    "download.json",
    "consumed.json",
    "dataset_infos.json",
    "dataset_info.json",
    "dataset_dict.json",
)
"""Not rows: written into raw folders by download and prepare, and by the `datasets` library."""
_MARKS = ("<image>", "<video>")


def turns_of(conversation: Any, name: str = "conversations") -> list[tuple[Any, Any]]:
    """Role and text of each turn, under ``from`` and ``value`` or ``role`` and ``content``.

    Both may occur in one conversation; other keys are ignored (LLaVA-OneVision-1.5 has a row with
    a stray ``markdown``).

    Raises:
        LeftOutError: It is no list of objects.
    """
    return [
        (turn["from"], turn.get("value"))
        if turn.get("from") is not None
        else (turn.get("role"), turn.get("content"))
        for turn in objects_of(conversation, name)
    ]


def question_turns(pairs: Any, name: str) -> list[tuple[Any, Any]]:
    """Turns of a list of objects with ``question`` and ``answer``.

    Raises:
        LeftOutError: It is no list of objects.
    """
    turns: list[tuple[Any, Any]] = []
    for pair in objects_of(pairs, name):
        turns += [("user", pair.get("question")), ("assistant", pair.get("answer"))]
    return turns


def objects_of(value: Any, name: str) -> list[dict[str, Any]]:
    """A list of objects; null is an empty one.

    Raises:
        LeftOutError: It is something else (``unreadable_record``).
    """
    if value is None:
        return []
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        raise LeftOutError(
            "unreadable_record", f"{name!r} is {_shown(value)}; expected a list of objects"
        )
    return value


def object_of(value: Any, name: str) -> dict[str, Any]:
    """An object; null is an empty one.

    Raises:
        LeftOutError: It is something else (``unreadable_record``).
    """
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise LeftOutError("unreadable_record", f"{name!r} is {_shown(value)}; expected an object")
    return value


def caption_of(value: Any, name: str) -> str:
    """A caption with something in it.

    Raises:
        LeftOutError: It is missing or empty (``no_caption``), or no text (``unreadable_record``).
    """
    if value is None or (isinstance(value, str) and not value.strip()):
        raise LeftOutError("no_caption", f"{name} is {value!r}; expected a caption")
    if not isinstance(value, str):
        raise LeftOutError("unreadable_record", f"{name} is {_shown(value)}; expected text")
    return value


def paths_of(value: Any) -> list[str]:
    """The paths of a row: one, a list, or none where it is null or empty.

    Raises:
        LeftOutError: It holds something else (``unreadable_record``).
    """
    if not value and (value is None or isinstance(value, str | list)):
        return []
    paths = [value] if isinstance(value, str) else value
    if not isinstance(paths, list) or not all(isinstance(path, str) and path for path in paths):
        raise LeftOutError("unreadable_record", f"media are {_shown(value)}; expected paths")
    return paths


def below(folders: Sequence[str], path: str) -> tuple[str, ...]:
    """Candidates for a path that is relative to one of several folders, the likeliest first.

    An absolute path stays absolute, so that it is seen to be unsafe.
    """
    if path.startswith("/"):
        return (path,)
    path = path.removeprefix("./")
    return tuple(dict.fromkeys(f"{folder}/{path}" if folder else path for folder in folders))


def clip_paths(value: Any) -> list[str]:
    """The paths of a row that must show a clip.

    Raises:
        LeftOutError: It names none (``missing_media``), or no path (``unreadable_record``).
    """
    paths = paths_of(value)
    if not paths:
        raise LeftOutError("missing_media", "the row names no clip; expected one")
    return paths


def in_marked_order(
    media: list[RawMedium], turns: list[tuple[Any, Any]], marks: tuple[str, ...] = _MARKS
) -> list[RawMedium]:
    """Media of both kinds in the order of their marks; as they were where those do not match.

    Args:
        media: Of a row.
        turns: Role and text.
        marks: The name of each kind between two characters.
    """
    pattern = re.compile("|".join(map(re.escape, marks)))
    texts = [text for role, text in turns if role in ("human", "user") and isinstance(text, str)]
    kinds = [marker[1:-1] for text in texts for marker in pattern.findall(text)]
    waiting = {
        kind: [medium for medium in media if medium.kind == kind] for kind in ("image", "video")
    }
    if any(kinds.count(kind) != len(waiting[kind]) for kind in waiting):
        return media
    return [waiting[kind].pop(0) for kind in kinds]


def embedded_image(image: Any) -> RawMedium:
    """Bytes of an ``Image`` column's value, or of a column of bytes.

    Raises:
        LeftOutError: The value has no bytes: only a path on the publisher's disk.
    """
    if isinstance(image, bytes) and image:
        return RawMedium(kind="image", data=image)
    if not isinstance(image, dict):
        detail = f"image without bytes: {_shown(image)}; expected bytes, or an object with 'bytes'"
        raise LeftOutError("missing_media", detail)
    if not image.get("bytes"):
        raise LeftOutError("missing_media", f"image without bytes (path {image.get('path')!r})")
    return RawMedium(kind="image", data=image["bytes"])


def native_id(subset: str, value: Any) -> str | None:
    """The row's own id below its subset, because ids are unique only there."""
    if value is None or value == "":
        return None
    return f"{subset}/{value}" if subset else str(value)


def stem_of(file: str) -> str:
    """A file's name without folders and without its last suffix."""
    return file.rpartition("/")[2].rpartition(".")[0]


def archives_below(raw: Path) -> list[Path]:
    """Every archive, by name; folders that begin with a dot are not the data set's."""
    return visible(raw, (path for path in raw.rglob("*") if is_archive(path)))


def visible(raw: Path, paths: Iterable[Path]) -> list[Path]:
    """Sorted paths without notes and what lies hidden, where other tools keep theirs."""
    return sorted(
        path
        for path in paths
        if not any(part.startswith(".") for part in path.relative_to(raw).parts)
        and path.relative_to(raw).as_posix() not in NOTES
    )


def _shown(value: Any) -> str:
    """A value of any size for a message."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
