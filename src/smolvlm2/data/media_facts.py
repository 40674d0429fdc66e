"""What prepare learns about a medium from its bytes, once."""

import hashlib
from dataclasses import asdict, dataclass
from typing import Any

from smolvlm2.data.media import MediaLocator
from smolvlm2.errors import MediaError
from smolvlm2.processing.images import ImageSettings, image_size
from smolvlm2.processing.video import probe_video


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

    def to_json(self) -> dict[str, Any]:
        """All fields as JSON values."""
        locator = None if self.locator is None else self.locator.to_json()
        return asdict(self) | {"locator": locator}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> "MediaFacts":
        """Inverse of ``to_json``."""
        locator = value["locator"]
        value = value | {"locator": MediaLocator.from_json(locator) if locator else None}
        return cls(**value)


def probe(kind: str, data: bytes) -> dict[str, Any]:
    """Measure a medium from its header.

    Args:
        kind: ``image`` or ``video``; the bytes must agree, whatever the file's name.
        data: The whole file.

    Returns:
        Fields of ``MediaFacts`` except the locator; ``reason`` is set when it cannot be used.
    """
    digest = hashlib.blake2b(data, digest_size=16).hexdigest()
    if foreign := _foreign_content(kind, data):
        detail = f"holds {foreign}; expected {'an image' if kind == 'image' else 'a video'}"
        return {"digest": digest, "reason": "unsupported_media", "detail": detail}
    try:
        if kind == "image":
            width, height = image_size(data)
            _check_size(width, height)
            return {"digest": digest, "width": width, "height": height}
        info = probe_video(data)
    except MediaError as error:
        return {"digest": digest, "reason": error.reason, "detail": str(error)}
    return {
        "digest": digest,
        "width": info.width,
        "height": info.height,
        "duration": info.duration,
        "fps": info.fps,
        "frames": info.num_frames,
    }


def sniff_kind(data: bytes) -> str:
    """``video`` for what begins like a video container, else ``image``."""
    return "video" if _foreign_content("image", data) == "a video" else "image"


def _foreign_content(kind: str, data: bytes) -> str:
    """What a healthy file holds that cannot be used as ``kind``; empty when nothing is known."""
    if kind == "video":
        return "a still image" if media_suffix(data) in ("png", "jpg") else ""
    if data[4:8] == b"ftyp" and data[8:12] not in (b"avif", b"avis"):
        return "HEIF" if data[8:12] in (b"heic", b"heix", b"mif1") else "a video"
    if data.startswith(b"\x1a\x45\xdf\xa3") or data[8:12] == b"AVI ":
        return "a video"
    start = data[:512].lstrip()
    if start.startswith(b"%PDF"):
        return "a PDF document"
    return "vector graphics" if start.startswith((b"<svg", b"<?xml")) else ""


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
