"""Image bytes to upright RGB pixels, or a named reason why not."""

import functools
import io
import struct
import threading
import warnings
import zlib
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

from smolvlm2.errors import MediaError, MediaNotFoundError
from smolvlm2.processing.tiling import ImageSettings

ImageSource = bytes | str | Path | Image.Image
# Pictures, not documents: EPS would start Ghostscript on a file from the internet.
FORMATS = (
    "JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "JPEG2000", "PPM", "ICO", "TGA", "DIB",
    "PCX", "SGI", "ICNS",
)  # fmt: skip
_DECODE_ERRORS = (
    OSError, SyntaxError, ValueError, IndexError, KeyError, TypeError, EOFError, OverflowError,
    RuntimeError, struct.error, zlib.error,
)  # fmt: skip
_PNG_EXIF = (b"eXIf", b"Raw profile type")
_PNG_START = b"\x89PNG\r\n\x1a\n"
_PNG_TEXTS = (b"zTXt", b"iTXt")
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# warnings.catch_warnings swaps a list of the whole process; two threads must not interleave.
_HEADER_LOCK = threading.Lock()


def open_image(source: ImageSource, settings: ImageSettings | None = None) -> Image.Image:
    """Read an image as training sees it.

    Args:
        source: The file's bytes, its path, or an open PIL image (whose EXIF orientation is left
            alone, as in transformers: it may have been applied already).
        settings: Limits on size and side ratio; None takes the defaults.

    Returns:
        RGB, upright: EXIF applied, first frame of an animation, 16-bit grey scaled to 8 bits,
        transparency over white.

    Raises:
        MediaNotFoundError: No such file.
        MediaError: ``bad_image_size`` (decided on the header) or ``corrupt_media``.
    """
    settings = settings or ImageSettings()
    if isinstance(source, Image.Image):
        image, orientation, name = source, 1, "image"
    else:
        image, orientation, name = _open_header(source)
    _check_size(image.size, settings, name)
    try:
        image.load()
        turn = _TURNS.get(orientation)
        image = _to_rgb(image)
        return image.transpose(turn) if turn is not None else image
    except _DECODE_ERRORS as error:
        raise MediaError(
            f"{name}: {image.format or image.mode} image does not decode ({error}); replace or "
            f"skip the file"
        ) from error


def image_size(source: bytes | str | Path) -> tuple[int, int]:
    """Upright width and height in pixels, from the header alone.

    Raises:
        MediaNotFoundError: No such file.
        MediaError: ``corrupt_media`` where the bytes are no image; ``bad_image_size`` where the
            header is so large that PIL refuses it.
    """
    image, orientation, _ = _open_header(source)
    width, height = image.size
    return (height, width) if orientation >= 5 else (width, height)


def _open_header(source: bytes | str | Path) -> tuple[Image.Image, int, str]:
    """The lazily opened image, its EXIF orientation (1 to 8), and a name for messages."""
    if isinstance(source, bytes | bytearray | memoryview):
        name, content = f"image of {len(source)} bytes", bytes(source)
    elif isinstance(source, str | Path):
        name = str(source)
        try:
            content = Path(source).read_bytes()
        except FileNotFoundError as error:
            raise MediaNotFoundError(f"{name}: no such image file") from error
        except (OSError, ValueError) as error:  # a path with a NUL is the latter
            raise MediaError(f"{name}: image file cannot be read ({error})") from error
    else:
        raise MediaError(
            f"image is a {type(source).__name__}; expected bytes, a path or a PIL image",
            reason="unsupported_media",
        )
    content = _without_texts(content)
    try:
        with _HEADER_LOCK, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            image = Image.open(io.BytesIO(content), formats=_formats())
            orientation = _orientation(image, content)
    except Image.DecompressionBombError as error:
        raise MediaError(f"{name}: {error}", reason="bad_image_size") from error
    except UnidentifiedImageError as error:
        raise MediaError(f"{name}: not an image in a known format; replace or skip it") from error
    except _DECODE_ERRORS as error:
        raise MediaError(f"{name}: image header does not read ({error})") from error
    return image, orientation, name


def _without_texts(content: bytes) -> bytes:
    """A PNG without its packed notes; other files as they are.

    PIL refuses a picture whose notes unpack to more than a megabyte, wherever they stand. Those
    that hold EXIF stay.
    """
    if not content.startswith(_PNG_START) or not any(mark in content for mark in _PNG_TEXTS):
        return content
    kept, place = [_PNG_START], len(_PNG_START)
    while place < len(content):
        # Length, name, body, checksum.
        end = place + 12 + int.from_bytes(content[place : place + 4], "big")
        chunk = content[place:end]
        if chunk[4:8] not in _PNG_TEXTS or chunk.startswith(b"Raw profile type", 8):
            kept.append(chunk)
        place = end
    return b"".join(kept)


@functools.cache
def _formats() -> tuple[str, ...]:
    """Those of ``FORMATS`` that this build of PIL reads."""
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


def _orientation(image: Image.Image, content: bytes) -> int:
    if image.format == "TIFF":
        return 1  # PIL turns TIFF itself, its size included
    if image.format == "PNG" and not any(mark in content for mark in _PNG_EXIF):
        return 1  # PIL would decode all pixels to look for a block behind them
    try:
        value = image.getexif().get(ExifTags.Base.Orientation, 1)
    except _DECODE_ERRORS:
        return 1  # a broken EXIF block does not spoil the picture
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def _check_size(size: tuple[int, int], settings: ImageSettings, name: str) -> None:
    width, height = size
    if min(size) < 1:
        raise MediaError(f"{name}: image of {width} x {height} pixels", reason="bad_image_size")
    if width * height > settings.max_pixels:
        raise MediaError(
            f"{name}: {width} x {height} is {width * height} pixels, at most "
            f"{settings.max_pixels} are read (image.max_pixels)",
            reason="bad_image_size",
        )
    if max(size) > settings.max_aspect * min(size):
        raise MediaError(
            f"{name}: sides {width} x {height} have a ratio above {settings.max_aspect} "
            f"(image.max_aspect)",
            reason="bad_image_size",
        )


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode.startswith("I"):
        # PIL's own conversion cuts off at 255, which turns 16-bit scans white.
        levels = np.clip(np.asarray(image, dtype=np.int64), 0, 65535)
        return Image.fromarray(((levels + 128) // 257).astype(np.uint8)).convert("RGB")
    if "A" in image.getbands() or "a" in image.getbands() or "transparency" in image.info:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, image).convert("RGB")
    return image.convert("RGB")
