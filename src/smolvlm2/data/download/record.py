"""What a raw folder holds, of which commit: ``download.json``, and what counts as present."""

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from smolvlm2.errors import DataError

RECORD_FILE = "download.json"
CONSUMED_FILE = "consumed.json"
"""Written by ``prepare --consume``: files that were deleted because everything in them is kept."""
_BLOCK = 1 << 20


@dataclass(frozen=True, kw_only=True)
class RemoteFile:
    """One file on the hub at one commit."""

    source: str
    hub_id: str
    commit: str
    path: str
    """In the repository."""
    local: str
    """Below the raw folder, with forward slashes."""
    size: int
    """Bytes."""
    sha256: str | None
    """Of large files; None for those that git keeps itself."""
    blob_id: str
    """Git's hash of the file, or of the pointer to it."""

    @property
    def digest(self) -> str:
        """What the content is checked against: ``sha256:...`` or ``git:...``."""
        return f"sha256:{self.sha256}" if self.sha256 else f"git:{self.blob_id}"


@dataclass(kw_only=True)
class Record:
    """Everything verified in one raw folder."""

    raw: Path
    commits: dict[str, str] = field(default_factory=dict)
    """By hub id. A folder stays at its commit until another revision is asked for."""
    files: dict[str, dict[str, Any]] = field(default_factory=dict)
    """By path below the raw folder: ``size`` and ``digest``."""
    complete: bool = False
    """Everything that was last asked for is here."""
    consumed: dict[str, int] = field(default_factory=dict)
    """Sizes of files that prepare has used up."""

    @classmethod
    def load(cls, raw: Path) -> "Record":
        """Read what is there; an empty record where nothing is.

        Raises:
            DataError: A file of the record is damaged.
        """
        stored = _read(raw / RECORD_FILE, {"commits": dict, "files": dict, "complete": bool})
        files = stored.get("files", {})
        if not all(isinstance(entry, dict) for entry in files.values()):
            raise _damaged(raw / RECORD_FILE, "an entry of 'files' is no object")
        consumed = _read(raw / CONSUMED_FILE, {"files": list}).get("files", [])
        if not all(isinstance(e, dict) and {"file", "size"} <= e.keys() for e in consumed):
            raise _damaged(raw / CONSUMED_FILE, "an entry of 'files' has no 'file' and 'size'")
        return cls(
            raw=raw,
            commits=stored.get("commits", {}),
            files=files,
            complete=stored.get("complete", False),
            consumed={entry["file"]: entry["size"] for entry in consumed},
        )

    def save(self) -> None:
        """Write the record; a reader sees the old one or the new one."""
        self.raw.mkdir(parents=True, exist_ok=True)
        path = self.raw / RECORD_FILE
        unfinished = path.with_name(f"{path.name}.partial")
        value = {
            "commits": self.commits,
            "complete": self.complete,
            "files": dict(sorted(self.files.items())),
        }
        unfinished.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")
        os.replace(unfinished, path)

    def add(self, file: RemoteFile) -> None:
        """Note a file whose content was checked."""
        self.files[file.local] = {"size": file.size, "digest": file.digest}

    def holds(self, file: RemoteFile, *, verify: bool = False) -> bool:
        """Whether a file is there, as published, or was used up by prepare.

        What the record knows is trusted while the size on disk is right. A file that it does not
        know is hashed and noted, so that a killed download loses nothing that was finished.

        Args:
            file: At the wanted commit.
            verify: Hash what the record knows, too.
        """
        if self.consumed.get(file.local) == file.size:
            return True
        path = self.raw / file.local
        if not path.is_file() or path.stat().st_size != file.size:
            self.files.pop(file.local, None)
            return False
        known = self.files.get(file.local, {}).get("digest") == file.digest
        if known and not verify:
            return True
        if content_digest(path, file) != file.digest:
            self.files.pop(file.local, None)
            return False
        self.add(file)
        return True


def content_digest(path: Path, file: RemoteFile) -> str:
    """Hash of a file on disk, of the kind that ``file.digest`` is."""
    if file.sha256:
        digest, prefix = hashlib.sha256(), "sha256:"
    else:
        # Git names a file by SHA-1 over a header and the content; it is no safeguard here.
        digest, prefix = hashlib.sha1(usedforsecurity=False), "git:"
        digest.update(f"blob {path.stat().st_size}\0".encode())
    with path.open("rb") as stream:
        while block := stream.read(_BLOCK):
            digest.update(block)
    return prefix + digest.hexdigest()


def _read(path: Path, kinds: Mapping[str, type]) -> dict[str, Any]:
    """A JSON object whose values, where they are there, are of these kinds; {} for no file."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise _damaged(path, f"not valid JSON ({error})") from error
    if not isinstance(value, dict):
        raise _damaged(path, f"expected a JSON object, found {type(value).__name__}")
    for name, kind in kinds.items():
        if not isinstance(value.get(name, kind()), kind):
            raise _damaged(
                path, f"{name!r} is of type {type(value[name]).__name__}, expected {kind.__name__}"
            )
    return value


def _damaged(path: Path, found: str) -> DataError:
    if path.name == CONSUMED_FILE:
        advice = "repair it, or delete it and what prepare used up is fetched again"
    else:
        advice = "delete it, what lies in the folder is then recognised by its content"
    return DataError(f"{path}: {found}; {advice}")
