"""What prepare learns about a medium from its bytes, once."""

import hashlib
from dataclasses import dataclass, fields, replace
from typing import Any, Literal

from smolvlm2.data.media import MediaLocator
from smolvlm2.errors import MediaError
from smolvlm2.processing.images import ImageSettings, image_size
from smolvlm2.processing.video import probe_video

Kind = Literal["image", "video"]
HEAD_BYTES = 1 << 20
"""Enough of a file's start to say what it is."""
MAX_HEADER_BYTES = 64 * 2**20
"""So much of an image file is looked at to find its size: EXIF may stand behind the pixels."""

HOLDS_TEXT = "holds text; expected an image or a video"
"""Detail of a file beside the media that is none."""


@dataclass(frozen=True, kw_only=True)
class MediaFacts:
    """Size and timing of one medium, and where it lies; or why it cannot be used."""

    locator: MediaLocator | None = None
    """None when it cannot be used."""
    digest: str = ""
    """Of the bytes, to find duplicates; hexadecimal."""
    width: int = 0
    """Upright, in pixels."""
    height: int = 0
    """Upright, in pixels."""
    duration: float = 0.0
    """Seconds; 0 for an image."""
    fps: float = 0.0
    """Frames per second; 0 for an image."""
    frames: int = 1
    """1 for an image."""
    reason: str | None = None
    """Ledger reason, or None when the medium is fine."""
    detail: str = ""
    """For a human."""

    def at(self, locator: MediaLocator) -> "MediaFacts":
        """The same medium, found at a place."""
        return replace(self, locator=locator)

    def to_json(self) -> dict[str, Any]:
        """The fields that differ from their defaults, as JSON values."""
        found = {f.name: getattr(self, f.name) for f in fields(self)}
        entry = {f.name: found[f.name] for f in fields(self) if found[f.name] != f.default}
        if self.locator is not None:
            entry["locator"] = self.locator.to_json()
        return entry

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> "MediaFacts":
        """Inverse of ``to_json``."""
        locator = value.get("locator")
        place = None if locator is None else MediaLocator.from_json(locator)
        return cls(**value | {"locator": place})


def start_digest(data: bytes = b"") -> Any:
    """A digest in the making, with ``update``; most processors have SHA-256 in hardware."""
    return hashlib.sha256(data)


def finish_digest(digest: Any) -> str:
    """The digest of everything it was given."""
    return str(digest.hexdigest()[:32])


def digest_of(data: bytes) -> str:
    """The digest of a medium that is held whole."""
    return finish_digest(start_digest(data))


def unusable(reason: str, detail: str, digest: str = "") -> MediaFacts:
    """Facts of a medium that is left out."""
    return MediaFacts(digest=digest, reason=reason, detail=detail)


def probe(kind: str, data: bytes) -> MediaFacts:
    """Look at a medium that a row holds and says the kind of; reads headers and packet tables.

    Args:
        kind: ``image`` or ``video``; the bytes must agree, whatever the file's name.
        data: The whole file.

    Returns:
        Everything but the locator; ``reason`` is set when the medium cannot be used.
    """
    digest = digest_of(data)
    found = sniff(data)
    if found not in (None, kind):
        names = {"image": "a still image", "video": "a video"}
        expected = "an image" if kind == "image" else "a video"
        detail = f"holds {names.get(found, found)}; expected {expected}"
        return unusable("unsupported_media", detail, digest)
    return measure(kind, data, digest)


def measure(kind: str, source: Any, digest: str) -> MediaFacts:
    """Size and timing of a medium of a known kind.

    Args:
        kind: ``image`` or ``video``.
        source: The file as bytes, or a ``RangeFile``; of a very large image only the start is read.
        digest: Of its bytes.
    """
    try:
        if kind == "image":
            data = source if isinstance(source, bytes) else source.read(MAX_HEADER_BYTES)
            width, height = image_size(data)
            _check_size(width, height)
            return MediaFacts(digest=digest, width=width, height=height)
        info = probe_video(source)
    except MediaError as error:
        return unusable(error.reason, str(error), digest)
    return MediaFacts(
        digest=digest,
        width=info.width,
        height=info.height,
        duration=info.duration,
        fps=info.fps,
        frames=info.num_frames,
    )


_IMAGE_STARTS = (
    b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF87a", b"GIF89a", b"II*\0", b"MM\0*",
    b"\0\0\0\x0cjP  ", b"\xff\x4f\xff\x51",
)  # fmt: skip
_VIDEO_STARTS = (
    b"\x1a\x45\xdf\xa3", b"FLV\x01", b"\0\0\x01\xba", b"\0\0\x01\xb3", b"OggS",
    b"\x30\x26\xb2\x75\x8e\x66\xcf\x11",
)  # fmt: skip
_BMP_HEADERS = (12, 40, 52, 56, 64, 108, 124)
_HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"mif1", b"msf1")
_BOXES = (b"moov", b"mdat", b"free", b"skip", b"wide", b"pnot")
_TRANSPORT_PACKETS = ((0, 188), (4, 192))
"""Place of the first mark and distance between marks: broadcast, and Blu-ray."""


def sniff(head: bytes) -> str | None:
    """What a file is, by its first bytes.

    Returns:
        ``image``, ``video``, the name of something else that is known and of no use, or None
        where the bytes are not telling: then only opening the file can.
    """
    if head.startswith(_IMAGE_STARTS) or _is_bmp(head):
        return "image"
    if head.startswith(_VIDEO_STARTS):
        return "video"
    if head[:4] == b"RIFF":
        return {b"WEBP": "image", b"AVI ": "video"}.get(head[8:12])
    if head[4:8] == b"ftyp":
        if head[8:12] in (b"avif", b"avis"):
            return "image"
        return "HEIF" if head[8:12] in _HEIF_BRANDS else "video"
    if head[4:8] in _BOXES:
        return "video"
    for first, step in _TRANSPORT_PACKETS:
        marks = head[first : first + 3 * step : step]
        if marks == b"GGG":
            return "video"
    start = head[:512].lstrip()
    if start.startswith(b"%PDF"):
        return "a PDF document"
    return "vector graphics" if start.startswith((b"<svg", b"<?xml")) else None


def _is_bmp(head: bytes) -> bool:
    return head[:2] == b"BM" and int.from_bytes(head[14:18], "little") in _BMP_HEADERS


def is_text(data: bytes) -> bool:
    """Whether bytes are written language: captions, lists, licences beside the media."""
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        if error.reason != "unexpected end of data":
            return False
        text = data[: error.start].decode("utf-8")
    return bool(text) and not any(c < " " and c not in "\t\n\r\f" for c in text[:4096])


def _check_size(width: int, height: int) -> None:
    """Refuse what processing refuses by default, before a run meets it.

    Raises:
        MediaError: ``bad_image_size``.
    """
    limits = ImageSettings()
    if min(width, height) < 1:
        raise MediaError(f"{width} x {height} pixels; expected a side", reason="bad_image_size")
    aspect = max(width, height) / min(width, height)
    if width * height > limits.max_pixels or aspect > limits.max_aspect:
        raise MediaError(
            f"{width} x {height} pixels; expected at most {limits.max_pixels} pixels and a ratio "
            f"of sides of at most {limits.max_aspect}",
            reason="bad_image_size",
        )


def media_suffix(data: bytes) -> str:
    """A file name ending for a shard member, for whoever lists the tar; never relied upon."""
    for start, suffix in ((b"\x89PNG", "png"), (b"\xff\xd8", "jpg"), (b"GIF8", "gif")):
        if data.startswith(start):
            return suffix
    if data[4:8] == b"ftyp":
        return "mp4"
    return "webp" if data[8:12] == b"WEBP" else "bin"
