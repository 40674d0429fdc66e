"""Training samples: prepared sources, or a folder with ``train.jsonl`` and media files.

The folder is mlx-vlm's: one JSON object a line, with ``messages`` as chat users write them and
``images`` and ``videos`` as paths relative to the file.
"""

import difflib
import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from smolvlm2.data.manifest import MANIFEST_FILE, Manifest
from smolvlm2.data.media import MediaStore, is_safe_path
from smolvlm2.errors import DataError, DataNotFoundError, SmolVLMError
from smolvlm2.processing.processor import ProcessedSample, Processor
from smolvlm2.processing.template import read_turns

ROW_KEYS = ("id", "messages", "images", "videos")
ITEM_KEYS = {"text": {"type", "text"}, "image": {"type"}, "video": {"type"}}
CHECK = "python mlx/test_data_loading.py --data {folder}"
"""The command that lists every row that cannot be used."""


@dataclass(frozen=True)
class Sample:
    """One conversation and its media."""

    sample_id: str
    """For messages and logs."""
    messages: list[dict[str, Any]]
    """Content is a list of ``text``, ``image`` and ``video`` items without media."""
    media: list[Any]
    """Paths, bytes or frame sequences, in the order in which their items stand."""


class Samples(Protocol):
    """A data set that is read by number."""

    folder: Path
    """What the user named."""

    def __len__(self) -> int: ...

    def read(self, index: int) -> Sample:
        """Read one sample without decoding its media.

        Raises:
            DataError: The row is malformed.
            MediaError: A medium's bytes cannot be read.
        """

    def digest(self) -> str:
        """Changes when a sample does."""


class JsonlSamples:
    """Rows of a ``.jsonl`` file; only where lines start is kept in memory."""

    def __init__(self, path: Path) -> None:
        """Index the file.

        Raises:
            DataError: It holds no row.
        """
        self.folder, self._path = path.parent, path
        self._lines: list[tuple[int, int, int]] = []
        self._hash = hashlib.sha256()
        start = 0
        with path.open("rb") as file:
            for number, line in enumerate(file, 1):
                self._hash.update(line)
                if line.strip():
                    self._lines.append((number, start, len(line)))
                start += len(line)
        if not self._lines:
            raise DataError(f"{path}: holds no row; expected one JSON object a line")

    def __len__(self) -> int:
        return len(self._lines)

    def digest(self) -> str:
        """Hash of the file; media are not part of it."""
        return self._hash.hexdigest()

    def read(self, index: int) -> Sample:
        """Read one row."""
        number, start, size = self._lines[index]
        where = f"{self._path}:{number}"
        with self._path.open("rb") as file:
            file.seek(start)
            line = file.read(size)
        try:
            row = json.loads(line)
        except ValueError as error:
            raise DataError(f"{where}: not JSON ({error}); expected one object a line") from error
        return read_row(row, self.folder, where)


class PreparedSamples:
    """All rows of prepared sources, one source after the other."""

    def __init__(self, folder: Path, manifests: Sequence[Manifest]) -> None:
        """Join opened sources; ``open_samples`` finds them."""
        self.folder, self._manifests = folder, manifests

    def __len__(self) -> int:
        return sum(map(len, self._manifests))

    def digest(self) -> str:
        """Hash of the sources' hashes."""
        return hashlib.sha256("".join(m.hash for m in self._manifests).encode()).hexdigest()

    def read(self, index: int) -> Sample:
        """Read one row of one source."""
        for manifest in self._manifests:
            if index < len(manifest):
                row = manifest.row(index)
                store = MediaStore(manifest.data_root)
                return Sample(row.sample_id, row.messages, [store.read(m) for m in row.media])
            index -= len(manifest)
        raise IndexError(f"{self.folder}: no row {index} behind the last")


def open_samples(folder: str | Path, split: str = "train") -> Samples:
    """Open what a user calls their data.

    Args:
        folder: A ``.jsonl`` file, a folder with ``train.jsonl``, a prepared source, a folder of
            prepared sources, or a data root with ``prepared/``.
        split: Name of the ``.jsonl`` file in a folder.

    Raises:
        DataNotFoundError: Nothing of the kind there.
        DataError: It cannot be read.
    """
    folder = Path(folder)
    if not folder.exists():
        raise DataNotFoundError(f"{folder}: no such file or folder; check the path after --data")
    if folder.suffix == ".jsonl" and folder.is_file():
        return JsonlSamples(folder)
    if (folder / f"{split}.jsonl").is_file():
        return JsonlSamples(folder / f"{split}.jsonl")
    for place in (folder, folder / "prepared"):
        found = [place] if (place / MANIFEST_FILE).is_file() else []
        found = found or sorted(path.parent for path in place.glob(f"*/{MANIFEST_FILE}"))
        if found:
            return PreparedSamples(folder, [Manifest.open(path) for path in found])
    raise DataNotFoundError(
        f"{folder}: holds neither {split}.jsonl nor prepared sources; write rows like "
        f'{{"images": ["a.png"], "messages": [...]}} into {folder / split}.jsonl, or run: smolvlm2 '
        f"prepare SOURCE"
    )


def read_row(row: Any, folder: Path, where: str) -> Sample:
    """Check a row and bring it into the form of a manifest's.

    Args:
        row: Of a ``.jsonl`` file.
        folder: That media paths are relative to.
        where: File and line for error messages.

    Raises:
        DataError: An unknown key, a wrong type, unsafe paths, or markers that do not fit the media.
    """
    if not isinstance(row, dict):
        raise DataError(f"{where}: a {type(row).__name__}, expected an object with 'messages'")
    _check_keys(row, ROW_KEYS, where)
    media = {kind: _read_paths(row, f"{kind}s", folder, where) for kind in ("image", "video")}
    messages = _read_messages(row.get("messages"), where)
    items = [item for message in messages for item in message["content"]]
    marked = [item["type"] for item in items if item["type"] != "text"]
    if not marked and any(media.values()):
        # As for published data: without markers, media go before the first user text.
        marked = ["image"] * len(media["image"]) + ["video"] * len(media["video"])
        first = next(message for message in messages if message["role"] == "user")
        first["content"] = [{"type": kind} for kind in marked] + first["content"]
    for kind, paths in media.items():
        if marked.count(kind) != len(paths):
            raise DataError(
                f"{where}: {marked.count(kind)} items of type {kind!r} but {len(paths)} "
                f"{kind}s; give one item for each, or none at all"
            )
    queues = {kind: iter(paths) for kind, paths in media.items()}
    return Sample(str(row.get("id", where)), messages, [next(queues[kind]) for kind in marked])


def encode(sample: Sample, processor: Processor, *, folder: Path) -> ProcessedSample:
    """Read a sample's media and encode it.

    Raises:
        DataError: It is longer than the context, supervises nothing, or its media cannot be read;
            the message ends with the command that lists all such samples.
    """
    try:
        encoded = processor.encode_sample(sample.messages, sample.media)
    except SmolVLMError as error:
        raise DataError(
            f"{sample.sample_id}: {error}; list all such rows with: {CHECK.format(folder=folder)}"
        ) from error
    context = processor.tokenizer.model_max_length
    if len(encoded.input_ids) > context or not encoded.supervised.any():
        found = f"{len(encoded.input_ids)} tokens, {int(encoded.supervised.sum())} supervised"
        raise DataError(
            f"{sample.sample_id}: {found}; expected at most {context} tokens and an answer; "
            f"shorten it or leave it out, list all such rows with: {CHECK.format(folder=folder)}"
        )
    return encoded


def answers(messages: Sequence[dict[str, Any]]) -> Iterator[str]:
    """What the assistant says, turn by turn."""
    for role, items in read_turns(messages):
        if role == "assistant":
            yield "".join(item.text for item in items[1:] if item.kind == "text").lstrip()


def _check_keys(value: dict[str, Any], known: Sequence[str], where: str) -> None:
    for key in value:
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            known_names = ", ".join(map(repr, known))
            raise DataError(
                f"{where}: unknown key {key!r}; "
                + (f"did you mean {near[0]!r}? " if near else "")
                + f"expected {known_names}"
            )


def _read_paths(row: dict[str, Any], key: str, folder: Path, where: str) -> list[Path]:
    names = row.get(key) or []
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise DataError(f"{where}: {key!r} is {names!r}; expected a list of paths")
    for name in names:
        if not is_safe_path(name):
            raise DataError(
                f"{where}: {key!r} names {name!r}; expected a path below {folder}, relative to it"
            )
    return [folder / name for name in names]


def _read_messages(value: Any, where: str) -> list[dict[str, Any]]:
    if not isinstance(value, list) or not all(isinstance(message, dict) for message in value):
        raise DataError(f"{where}: 'messages' is {value!r}; expected a list of messages")
    messages = []
    for number, message in enumerate(value):
        place = f"{where}, message {number}"
        _check_keys(message, ("role", "content"), place)
        content = message.get("content")
        items = [{"type": "text", "text": content}] if isinstance(content, str) else content
        for item in items if isinstance(items, list) else []:
            kind = item.get("type") if isinstance(item, dict) else None
            if kind in ITEM_KEYS:
                _check_keys(item, sorted(ITEM_KEYS[kind]), f"{place}, item of type {kind!r}")
        messages.append({"role": message.get("role"), "content": items})
    try:
        roles = [role for role, _ in read_turns(messages)]
    except SmolVLMError as error:
        raise DataError(f"{where}: {error}") from error
    if "user" not in roles or "assistant" not in roles:
        raise DataError(f"{where}: roles are {roles}; expected a user's and an assistant's turn")
    return messages
