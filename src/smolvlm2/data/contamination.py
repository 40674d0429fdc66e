"""Which training samples show a benchmark's image, pixel for pixel, or hold a benchmark's file."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from smolvlm2.data.benchmark_media import (
    FileFingerprints,
    Fingerprint,
    benchmark_files,
    byte_digest,
    fingerprint_file,
    pixel_digest,
)
from smolvlm2.data.manifest import CONTAMINATION_FILE, Manifest
from smolvlm2.data.media import IMAGE, MediaLocator, MediaStore
from smolvlm2.data.pool import run_tasks
from smolvlm2.errors import DataError, MediaError
from smolvlm2.model.hub import write_json

MOST_PLACES = 5
"""Places that are named for one benchmark image; some occur in every question of a set."""
CHUNK_MEDIA = 256
"""Training media compared by one task."""


@dataclass(kw_only=True)
class BenchmarkSet:
    """Fingerprints of all benchmark folders."""

    folders: list[str]
    """As given."""
    images: dict[bytes, list[str]] = field(default_factory=dict)
    """First places of each image, by digest of its pixels."""
    others: dict[bytes, list[str]] = field(default_factory=dict)
    """First places of each other file, clips among them, by digest of its bytes."""
    sizes: set[tuple[int, int]] = field(default_factory=set)
    """Upright sizes of the images."""
    lengths: set[int] = field(default_factory=set)
    """Bytes of the other files."""
    problems: list[str] = field(default_factory=list)
    """What could not be read, and why."""

    def add(self, found: Fingerprint) -> None:
        """Take one fingerprint in."""
        known = self.others if found.size is None else self.images
        places = known.setdefault(found.digest, [])
        if len(places) < MOST_PLACES:
            places.append(found.where)
        if found.size is None:
            self.lengths.add(found.length)
        else:
            self.sizes.add(found.size)

    @property
    def hash(self) -> str:
        """Of all fingerprints, hexadecimal; the same in any order."""
        digest = hashlib.blake2b(digest_size=16)
        for known in (self.images, self.others):
            digest.update(b"".join(sorted(known)) + b"\0")
        return digest.hexdigest()


@dataclass(frozen=True, kw_only=True)
class Match:
    """A training medium that is a benchmark's."""

    row: int
    """Of the manifest."""
    sample_id: str
    """Of the row."""
    medium: int
    """Which of the row's media, from 0."""
    benchmark: list[str]
    """Where it lies in the benchmarks; the first few places."""


@dataclass(kw_only=True)
class Contamination:
    """What the comparison of one source found."""

    source: str
    """Its name."""
    rows: int
    """Of the manifest."""
    images: int
    """Images of the source."""
    images_compared: int
    """Those with the size of a benchmark image: only they are decoded."""
    clips: int
    """Clips of the source."""
    clips_compared: int
    """Those with as many bytes as a benchmark file."""
    clips_as_frames: int
    """Clips kept as frames, whose file is not there to be compared."""
    unreadable: int
    """Media to be compared that could not be read; training skips them, too."""
    matches: list[Match]
    """By row and medium."""

    @property
    def contaminated(self) -> list[int]:
        """Rows with a match, ascending."""
        return sorted({match.row for match in self.matches})


def read_benchmarks(folders: Sequence[Path], *, workers: int = 0) -> BenchmarkSet:
    """Fingerprint everything in the folders.

    Args:
        folders: With image files, archives or parquet files, at any depth.
        workers: Processes; 0 works in this one.

    Raises:
        DataNotFoundError: A folder is missing.
        DataError: A folder is empty, or none holds an image.
    """
    tasks = [
        (path, f"{folder.name}/{path.relative_to(folder).as_posix()}")
        for folder in folders
        for path in benchmark_files(folder)
    ]
    known = BenchmarkSet(folders=[str(folder) for folder in folders])
    results: list[FileFingerprints] = run_tasks(fingerprint_file, tasks, workers, "files", _silent)
    for result in results:
        known.problems += result.problems
        for found in result.found:
            known.add(found)
    if not known.images:
        raise DataError(
            f"{', '.join(known.folders)}: {len(tasks)} files but no image among them; expected "
            "image files, zips or tars of them, or parquet files with image columns"
        )
    return known


def compare_source(manifest: Manifest, known: BenchmarkSet, *, workers: int = 0) -> Contamination:
    """Look for benchmark media in a source.

    Geometry is the first filter: only images of a size that some benchmark image has are read.

    Args:
        manifest: Of the source.
        known: The benchmarks.
        workers: Processes; 0 works in this one.
    """
    geometry = manifest.geometry
    owner = np.repeat(np.arange(len(manifest)), np.diff(geometry.media_offsets))
    place = np.arange(len(owner)) - np.asarray(geometry.media_offsets)[owner]
    is_image = np.asarray(geometry.media_kind) == IMAGE
    same_size = is_image & np.isin(
        _size_code(geometry.media_width, geometry.media_height),
        [_size_code(np.int64(width), np.int64(height)) for width, height in sorted(known.sizes)],
    )
    images = np.flatnonzero(same_size)
    clips, as_frames = _clips_of_length(manifest, owner, place, ~is_image, known.lengths)
    chosen = np.concatenate([images, np.asarray(clips, dtype=np.int64)])
    media = list(zip(owner[chosen].tolist(), place[chosen].tolist(), strict=True))
    chunks = [media[i : i + CHUNK_MEDIA] for i in range(0, len(media), CHUNK_MEDIA)]
    tasks = [(manifest.folder, chunk) for chunk in chunks]
    hashed = run_tasks(training_digests, tasks, workers, "media", _silent)
    digests = [digest for chunk in hashed for digest in chunk]
    matches = []
    for number, ((row, medium), digest) in enumerate(zip(media, digests, strict=True)):
        table = known.images if number < len(images) else known.others
        if digest in table:
            matches.append(
                Match(
                    row=row,
                    sample_id=manifest.sample_id(row),
                    medium=medium,
                    benchmark=table[digest],
                )
            )
    return Contamination(
        source=manifest.source,
        rows=len(manifest),
        images=int(is_image.sum()),
        images_compared=len(images),
        clips=int((~is_image).sum()),
        clips_compared=len(clips),
        clips_as_frames=as_frames,
        unreadable=digests.count(None),
        matches=sorted(matches, key=lambda match: (match.row, match.medium)),
    )


def training_digests(folder: Path, media: Sequence[tuple[int, int]]) -> list[bytes | None]:
    """Digests of media of a source: pixels of images, bytes of clips; None for unreadable ones.

    Args:
        folder: Of the prepared source.
        media: Row, and place in the row.
    """
    manifest = Manifest.open(folder)
    store = MediaStore(manifest.data_root)
    digests: list[bytes | None] = []
    for row, place in media:
        locator = manifest.row(row).media[place]
        try:
            data = store.read(locator)
            assert isinstance(data, bytes)  # clips kept as frames were passed over
            digests.append(pixel_digest(data)[1] if locator.kind == "image" else byte_digest(data))
        except MediaError:
            digests.append(None)
    return digests


def write_contamination(manifest: Manifest, known: BenchmarkSet, found: Contamination) -> Path:
    """Write what was found beside the manifest; replaces an earlier comparison."""
    path = manifest.folder / CONTAMINATION_FILE
    value: dict[str, Any] = {
        "source": found.source,
        "manifest": manifest.hash,
        "benchmarks": {
            "folders": known.folders,
            "hash": known.hash,
            "images": len(known.images),
            "other_files": len(known.others),
            "problems": known.problems,
        },
        "images_compared": found.images_compared,
        "clips_compared": found.clips_compared,
        "clips_as_frames": found.clips_as_frames,
        "unreadable": found.unreadable,
        "rows": found.contaminated,
        "matches": [vars(match) for match in found.matches],
    }
    write_json(value, path)
    return path


def contaminated_rows(folder: Path, manifest_hash: str) -> np.ndarray:
    """Rows of a source that a comparison found in a benchmark: what the planner leaves out.

    Args:
        folder: Of the prepared source.
        manifest_hash: ``Manifest.hash`` of the manifest that the rows count in.

    Returns:
        int64 ``(n,)``, ascending; empty where no comparison was made.

    Raises:
        DataError: The comparison was made with another manifest, or its file is damaged.
    """
    path = folder / CONTAMINATION_FILE
    again = "run smolvlm2 data contamination again, or remove the file"
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
        compared, rows = value["manifest"], np.array(value["rows"], dtype=np.int64)
    except FileNotFoundError:
        return np.zeros(0, dtype=np.int64)
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path}: cannot be read ({error!r}); {again}") from error
    if compared != manifest_hash:
        raise DataError(
            f"{path}: was made with manifest {compared}, but the manifest here is {manifest_hash}: "
            f"its rows are others; {again}"
        )
    return rows


def _size_code(width: Any, height: Any) -> Any:
    """One integer a size, so that sizes are compared in one pass."""
    return np.asarray(width).astype(np.int64) << 32 | np.asarray(height).astype(np.int64)


def _clips_of_length(
    manifest: Manifest, owner: np.ndarray, place: np.ndarray, is_clip: np.ndarray, lengths: set[int]
) -> tuple[list[int], int]:
    """Clips whose file is as long as a benchmark's, and how many have no file of their own."""
    same: list[int] = []
    as_frames = 0
    for medium in np.flatnonzero(is_clip).tolist() if lengths else ():
        locator = manifest.row(int(owner[medium])).media[int(place[medium])]
        if not locator.path:
            as_frames += 1
        elif _length(manifest.data_root, locator) in lengths:
            same.append(medium)
    return same, as_frames


def _length(root: Path, locator: MediaLocator) -> int | None:
    if locator.size is not None:
        return locator.size
    try:
        return (root / locator.path).stat().st_size
    except OSError:
        return None


def _silent(*_: object) -> None:
    """Tell nobody of progress."""
