"""Fingerprints of everything that lies in benchmark folders, in whatever form it was published."""

import hashlib
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

from smolvlm2.errors import DataError, DataNotFoundError, MediaError
from smolvlm2.processing.images import ImageSettings, open_image

DIGEST_BYTES = 16
MOST_IMAGE_BYTES = 256 * 2**20
"""Larger files are not tried as images."""
BLOCK = 1 << 20
BATCH_ROWS = 16
"""Parquet rows decoded at once: a row may hold dozens of pages."""
_ARCHIVE_ERRORS = (
    zipfile.BadZipFile,
    tarfile.TarError,
    zlib.error,
    EOFError,
    OSError,
    NotImplementedError,  # a compression method that Python does not know
    RuntimeError,  # an encrypted member
)
_ANY_SIZE = ImageSettings(max_aspect=1e9)
"""A benchmark may hold what training refuses; then it simply never matches."""


@dataclass(frozen=True, kw_only=True)
class Fingerprint:
    """One file, archive member or parquet value."""

    where: str
    """For a human: folder, file, and the place in it."""
    size: tuple[int, int] | None
    """Upright width and height of an image; None for what is none."""
    length: int
    """Bytes of the file as it lies there."""
    digest: bytes
    """Of an image's pixels, else of the bytes."""


@dataclass(kw_only=True)
class FileFingerprints:
    """What one file of a benchmark gave."""

    found: list[Fingerprint] = field(default_factory=list)
    """In file order."""
    problems: list[str] = field(default_factory=list)
    """What in it could not be read, and why."""


def benchmark_files(folder: Path) -> list[Path]:
    """All files below a folder, sorted; hidden ones, such as a download's cache, are passed over.

    Raises:
        DataNotFoundError: No such folder.
        DataError: No file in it.
    """
    if not folder.is_dir():
        raise DataNotFoundError(f"{folder}: no such folder of benchmark images")
    files = [
        path
        for path in sorted(folder.rglob("*"))
        if path.is_file()
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    ]
    if not files:
        raise DataError(f"{folder}: holds no files; expected benchmark images, archives or parquet")
    return files


def fingerprint_file(path: Path, name: str) -> FileFingerprints:
    """Fingerprint a file and, in an archive or parquet file, everything inside it.

    What a file is, its bytes say. Archives inside archives are not opened.

    Args:
        path: The file.
        name: What to call it.
    """
    result = FileFingerprints()
    try:
        for where, length, data in _contents(path, name):
            if isinstance(data, Exception):
                result.problems.append(f"{where}: cannot be read ({data})")
            elif isinstance(data, bytes):
                result.found.append(fingerprint(data, where))
            else:
                result.found.append(
                    Fingerprint(where=where, size=None, length=length, digest=_stream(data))
                )
    except (*_ARCHIVE_ERRORS, pa.ArrowException) as error:
        result.problems.append(f"{name}: cannot be read to its end ({error})")
    return result


def fingerprint(data: bytes, where: str = "") -> Fingerprint:
    """Of an image the pixels as training decodes them; of anything else the bytes."""
    try:
        size, digest = pixel_digest(data, _ANY_SIZE)
    except MediaError:
        digest = byte_digest(data)
        return Fingerprint(where=where, size=None, length=len(data), digest=digest)
    return Fingerprint(where=where, size=size, length=len(data), digest=digest)


def pixel_digest(
    data: bytes, settings: ImageSettings | None = None
) -> tuple[tuple[int, int], bytes]:
    """Upright size of an image, and a digest of size and RGB pixels.

    Raises:
        MediaError: Not an image, or one that training refuses.
    """
    image = open_image(data, settings)
    digest = hashlib.blake2b(f"{image.width}x{image.height}".encode(), digest_size=DIGEST_BYTES)
    digest.update(image.tobytes())
    return image.size, digest.digest()


def byte_digest(data: bytes) -> bytes:
    """Digest of a file's bytes."""
    return hashlib.blake2b(data, digest_size=DIGEST_BYTES).digest()


def _stream(file: IO[bytes]) -> bytes:
    digest = hashlib.blake2b(digest_size=DIGEST_BYTES)
    while block := file.read(BLOCK):
        digest.update(block)
    return digest.digest()


Content = bytes | IO[bytes] | Exception
"""Small ones whole, large ones as an open file, damaged ones as what went wrong."""


def _contents(path: Path, name: str) -> Iterator[tuple[str, int, Content]]:
    """Name, length and content of each thing in a file."""
    with path.open("rb") as file:
        magic = file.read(4)
    if magic == b"PAR1":
        yield from _parquet_values(path, name)
    elif zipfile.is_zipfile(path):
        yield from _zip_members(path, name)
    elif tarfile.is_tarfile(path):
        yield from _tar_members(path, name)
    else:
        with path.open("rb") as file:
            yield name, *_content(file, path.stat().st_size)


def _zip_members(path: Path, name: str) -> Iterator[tuple[str, int, Content]]:
    with zipfile.ZipFile(path) as archive:
        for entry in archive.infolist():
            where = f"{name}: {entry.filename}"
            if entry.is_dir():
                continue
            try:
                with archive.open(entry) as member:
                    yield where, *_content(member, entry.file_size)
            except _ARCHIVE_ERRORS as error:  # its neighbours may be whole
                yield where, entry.file_size, error


def _tar_members(path: Path, name: str) -> Iterator[tuple[str, int, Content]]:
    with path.open("rb") as file:
        plain = file.read(262)[257:] == b"ustar"
    with tarfile.open(path, "r|*") as archive:
        for info in archive:
            stream = archive.extractfile(info) if info.isreg() else None
            if stream is not None:
                yield f"{name}: {info.name}", *_content(stream, info.size)
        # Cut inside a header a plain tar ends like a whole one; compressed ones notice themselves.
        if plain and path.stat().st_size - archive.offset < tarfile.BLOCKSIZE:
            raise EOFError("no mark at the end of the archive")


def _content(file: IO[bytes], size: int) -> tuple[int, bytes | IO[bytes]]:
    if size > MOST_IMAGE_BYTES:
        return size, file
    # A member may unpack to more than its archive says.
    data = file.read(MOST_IMAGE_BYTES + 1)
    if len(data) > MOST_IMAGE_BYTES:
        raise EOFError(f"unpacks to more than the {size} bytes that its archive says")
    if len(data) < size:
        raise EOFError(f"has {len(data)} of {size} bytes")
    return len(data), data


def _parquet_values(path: Path, name: str) -> Iterator[tuple[str, int, bytes]]:
    """Every value of bytes at any depth: the hub's images are ``{bytes, path}``, or lists of it."""
    with pq.ParquetFile(path) as file:
        columns = [field.name for field in file.schema_arrow if _holds_bytes(field.type)]
        row = 0
        for batch in file.iter_batches(BATCH_ROWS, columns=columns) if columns else ():
            for values in batch.to_pylist():
                for column, value in values.items():
                    for data in _bytes_in(value):
                        yield f"{name}: row {row}, {column}", len(data), data
                row += 1


def _holds_bytes(kind: pa.DataType) -> bool:
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
        return True
    return any(_holds_bytes(kind.field(i).type) for i in range(kind.num_fields))


def _bytes_in(value: Any) -> Iterator[bytes]:
    if isinstance(value, bytes):
        yield value
    elif isinstance(value, dict | list):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _bytes_in(inner)
