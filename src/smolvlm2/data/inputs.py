"""What a raw folder holds: files of rows, archives, loose media; and whether they are the same."""

import fcntl
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from smolvlm2.data.shards import make_durable, unfinished_name
from smolvlm2.data.sources.archives import is_archive
from smolvlm2.data.sources.record import Adapter
from smolvlm2.errors import DataError, DataNotFoundError

CONSUMED_FILE = "consumed.json"
"""In a raw folder: the files that prepare deleted because their content is in shards."""
LOOSE_CHUNK = 512
"""Loose files that make one input."""
_NO_MEDIA = (
    ".json", ".jsonl", ".md", ".txt", ".csv", ".tsv", ".parquet", ".arrow", ".yaml", ".yml",
    ".pdf", ".html", ".py",
)  # fmt: skip
InputKind = Literal["rows", "archive", "loose"]


@dataclass(frozen=True, kw_only=True)
class InputFile:
    """A raw file as it was found."""

    file: str
    """Relative to the raw folder, with forward slashes."""
    size: int
    """In bytes; of a folder the sum."""
    modified_ns: int | None
    """None for a file that was consumed."""

    def is_same(self, other: "InputFile") -> bool:
        """Whether name, size and time agree; a consumed file has no time any more."""
        times = {self.modified_ns, other.modified_ns} - {None}
        return (self.file, self.size) == (other.file, other.size) and len(times) < 2


@dataclass(frozen=True, kw_only=True)
class InputStamp:
    """From what a part was made, and how: equal stamps give equal parts."""

    recipe: str
    """Version of the code, adapter and frame settings."""
    files: tuple[InputFile, ...]

    def is_same(self, other: "InputStamp") -> bool:
        """Whether the result would be the same."""
        return (
            self.recipe == other.recipe
            and len(self.files) == len(other.files)
            and all(a.is_same(b) for a, b in zip(self.files, other.files, strict=True))
        )

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> "InputStamp":
        """Inverse of ``dataclasses.asdict``."""
        files = tuple(InputFile(**each) for each in value["files"])
        return cls(recipe=value["recipe"], files=files)


@dataclass(frozen=True, kw_only=True)
class Input:
    """One unit of the map."""

    kind: InputKind
    name: str
    """The file, relative to the raw folder; of loose media ``loose media 00000``."""
    files: tuple[InputFile, ...]
    """What it is made of: itself, the parts of a split archive, or the loose files."""

    @property
    def is_consumed(self) -> bool:
        """Whether a file of it was deleted after it was prepared."""
        return any(file.modified_ns is None for file in self.files)


def list_inputs(adapter: Adapter, raw: Path) -> list[Input]:
    """All inputs: archives, then loose media, then files of rows, each in a fixed order.

    Raises:
        DataNotFoundError: There is no raw folder.
        DataError: It holds no file of rows.
    """
    if not raw.is_dir():
        raise DataNotFoundError(
            f"{raw}: no raw data of {adapter.source} here; download them to this folder (the "
            "demo's are made by: smolvlm2 demo-data), then run: smolvlm2 prepare " + adapter.source
        )
    named, packed = _names(adapter.record_files(raw), raw), _names(adapter.archives(raw), raw)
    walked = list(_walk(raw, ""))
    # Read last: a file that another run consumed while the folder was listed is in it by now.
    consumed = read_consumed(raw)
    rows = _with_consumed(named, consumed, "rows")
    if not rows:
        found = sorted(path.name for path in raw.iterdir())[:5]
        raise DataError(
            f"{raw}: no files with rows of {adapter.source}, found {found}; expected the layout of "
            f"{type(adapter).__name__}, check that the download is complete"
        )
    taken = set(rows)
    everything = [*walked, *(consumed.keys() - set(walked))]
    parts = _split_parts(everything)
    # A split archive without its last part has no name of its own; it is listed to be refused.
    stray = {last for last in parts if last not in everything}
    archives = [*packed, *sorted(stray)]
    archives = [name for name in _with_consumed(archives, consumed, "archive") if name not in taken]
    taken |= {*archives, *(part for each in parts.values() for part in each)}
    loose = sorted(name for name in everything if name not in taken and not _is_other(name))
    inputs = [
        Input(
            kind="archive",
            name=name,
            files=_input_files(raw, [*parts.get(name, []), *({name} - stray)], consumed),
        )
        for name in archives
    ]
    for number, start in enumerate(range(0, len(loose), LOOSE_CHUNK)):
        chunk = _input_files(raw, loose[start : start + LOOSE_CHUNK], consumed, follow=False)
        inputs.append(Input(kind="loose", name=f"loose media {number:05d}", files=chunk))
    inputs += [
        Input(kind="rows", name=name, files=_input_files(raw, [name], consumed)) for name in rows
    ]
    return inputs


def _names(paths: Iterable[Path], raw: Path) -> list[str]:
    return [path.relative_to(raw).as_posix() for path in paths]


def _with_consumed(names: list[str], consumed: dict[str, Any], kind: str) -> list[str]:
    """An adapter's list as it was before files were consumed: these are put in by name."""
    gone = {name for name, entry in consumed.items() if entry["kind"] == kind} - set(names)
    return sorted({*names, *gone}, key=PurePosixPath) if gone else names


def _split_parts(names: list[str]) -> dict[str, list[str]]:
    """Parts ``x.z01``, ``x.z02``, ... of split archives, by the name of the last, ``x.zip``."""
    parts: dict[str, list[str]] = {}
    for name in sorted(names):
        stem, _, ending = name.rpartition(".")
        if ending[:1] == "z" and ending[1:].isdigit():
            parts.setdefault(f"{stem}.zip", []).append(name)
    return parts


def _is_other(name: str) -> bool:
    """Whether a name says that a file is neither a medium nor to be looked into."""
    return PurePosixPath(name).suffix.lower() in _NO_MEDIA or is_archive(Path(name))


def _walk(raw: Path, below: str) -> Iterator[str]:
    """Files and links below a folder; links are named, never entered."""
    with os.scandir(raw / below) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            name = f"{below}{entry.name}"
            if entry.is_dir(follow_symlinks=False):
                yield from _walk(raw, f"{name}/")
            elif entry.is_symlink() or entry.is_file():
                yield name


def _input_files(
    raw: Path, names: list[str], consumed: dict[str, dict[str, Any]], *, follow: bool = True
) -> tuple[InputFile, ...]:
    files = []
    for name in names:
        try:
            files.append(_input_file(raw, name, consumed, follow=follow))
        except FileNotFoundError:
            consumed = read_consumed(raw)  # since it was read another run may have taken the file
            if name not in consumed:
                raise
            files.append(_input_file(raw, name, consumed, follow=follow))
    return tuple(files)


def _input_file(raw: Path, name: str, consumed: dict[str, Any], *, follow: bool) -> InputFile:
    path = raw / name
    if name in consumed and not path.exists():
        return InputFile(file=name, size=consumed[name]["size"], modified_ns=None)
    if not follow and path.is_symlink():
        state = path.lstat()  # refused, wherever it leads
        return InputFile(file=name, size=state.st_size, modified_ns=state.st_mtime_ns)
    if path.is_dir():
        states = [each.stat() for each in path.rglob("*") if each.is_file()]
        modified = max((state.st_mtime_ns for state in states), default=0)
        size = sum(state.st_size for state in states)
        return InputFile(file=name, size=size, modified_ns=modified)
    state = path.lstat() if path.is_symlink() and not path.exists() else path.stat()
    return InputFile(file=name, size=state.st_size, modified_ns=state.st_mtime_ns)


def expect_unchanged(raw: Path, item: Input) -> None:
    """Make sure that what was read is what was listed.

    Raises:
        FileNotFoundError: A file is gone; perhaps another run has consumed it.
        DataError: A file has another size or time.
    """
    for file in item.files:
        if not _input_file(raw, file.file, {}, follow=item.kind != "loose").is_same(file):
            raise DataError(
                f"{raw / file.file}: changed while it was read; wait until it is complete (is a "
                "download still running?), then run the same command again"
            )


def read_consumed(raw: Path) -> dict[str, dict[str, Any]]:
    """Entries of ``consumed.json`` by file.

    Raises:
        DataError: The file is damaged.
    """
    path = raw / CONSUMED_FILE
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))["files"]
        return {entry["file"]: {"kind": "rows", **entry} for entry in entries}
    except FileNotFoundError:
        return {}
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{path}: not a list of consumed files ({error}); expected what prepare --consume "
            "wrote, restore it or download the source again"
        ) from error


def consume(raw: Path, item: Input) -> int:
    """Delete the raw files of an input whose content lies in verified shards.

    Args:
        raw: The raw folder.
        item: The input.

    Returns:
        Bytes set free.
    """
    # Written before the files go, so that none is ever missing without a word; locked, because
    # several tasks of an array may do this to one folder.
    with (raw / f".{CONSUMED_FILE}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        known = read_consumed(raw)
        present = [file for file in item.files if file.modified_ns is not None]
        for file in present:
            known[file.file] = {"file": file.file, "size": file.size, "kind": item.kind}
        path = raw / CONSUMED_FILE
        unfinished = raw / f".{unfinished_name(CONSUMED_FILE)}"
        unfinished.write_text(json.dumps({"files": list(known.values())}, indent=1) + "\n")
        make_durable(unfinished)
        unfinished.replace(path)
    for file in present:
        (raw / file.file).unlink(missing_ok=True)
    return sum(file.size for file in present)


def stamp_inputs(inputs: Sequence[Input], recipe: str) -> InputStamp:
    """One stamp of all inputs of a source."""
    return InputStamp(recipe=recipe, files=tuple(file for item in inputs for file in item.files))


def stamp_to_json(stamp: InputStamp) -> dict[str, Any]:
    """The stamp as JSON values."""
    return asdict(stamp)
