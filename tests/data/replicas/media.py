"""Pictures and clips in the forms that published data have, made on the spot."""

import functools
import io
import struct
import tempfile
import zlib
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from PIL import Image, PngImagePlugin

RED = (220, 30, 30)
WIDTH, HEIGHT = 48, 32
"""Of every picture and clip that has no reason for another size."""


@functools.cache
def picture(number: int, width: int = WIDTH, height: int = HEIGHT) -> bytes:
    """A PNG that differs from every other number's."""
    pixels = np.random.default_rng(number).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return _saved(Image.fromarray(pixels), "PNG")


def red_corner(width: int = WIDTH, height: int = HEIGHT) -> Image.Image:
    """Grey with a red upper left quarter, to see which way up a picture is."""
    image = Image.new("RGB", (width, height), (90, 90, 90))
    image.paste(RED, (0, 0, width // 2, height // 2))
    return image


def _saved(image: Image.Image, form: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def turned_jpeg() -> bytes:
    """Stored lying on its side; EXIF says how to turn it: upright 32 x 48, red upper right."""
    exif = Image.Exif()
    exif[0x0112] = 6
    return _saved(red_corner(), "JPEG", exif=exif, quality=95, subsampling=0)


def palette_png() -> bytes:
    """A palette with a transparent colour everywhere but in the red corner."""
    image = red_corner().quantize(4)
    grey = image.getpixel((WIDTH - 1, HEIGHT - 1))
    return _saved(image, "PNG", transparency=grey)


def alpha_png() -> bytes:
    """Fully transparent black outside the red corner."""
    image = red_corner().convert("RGBA")
    pixels = np.asarray(image).copy()
    pixels[pixels[..., 0] == 90] = 0
    return _saved(Image.fromarray(pixels), "PNG")


def cmyk_jpeg() -> bytes:
    """In the colours of a printer."""
    return _saved(red_corner().convert("CMYK"), "JPEG", quality=95, subsampling=0)


def grey16_png() -> bytes:
    """16 bits a pixel: 60,000 of 65,535 everywhere."""
    return _saved(Image.fromarray(np.full((HEIGHT, WIDTH), 60_000, dtype=np.uint16)), "PNG")


def animation(form: str) -> bytes:
    """A GIF or WebP whose first frame has the red corner, and whose second is black."""
    frames = [red_corner(), Image.new("RGB", (WIDTH, HEIGHT))]
    options = {"lossless": True} if form == "WEBP" else {}
    return _saved(frames[0], form, save_all=True, append_images=frames[1:], duration=80, **options)


def wordy_png() -> bytes:
    """With a text chunk that unpacks to more than PIL reads by default."""
    notes = PngImagePlugin.PngInfo()
    notes.add_text("comment", "a" * (2 << 20), zip=True)
    return _saved(red_corner(), "PNG", pnginfo=notes)


def huge_png() -> bytes:
    """A small file that says it is 20,000 x 20,000 pixels."""
    header = struct.pack(">IIBBBBB", 20_000, 20_000, 8, 2, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(b"\0" * 100)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
        for name, body in chunks
    )


@functools.cache
def clip(
    number: int,
    *,
    frames: int = 8,
    fps: int = 8,
    turn: int | None = None,
    times_ms: tuple[int, ...] | None = None,
) -> bytes:
    """H.264 in mp4: grey that brightens, with a red upper left quarter.

    Args:
        number: Tells clips apart, 0 to 99.
        frames: How many.
        fps: Frames a second.
        turn: Degrees of the display matrix.
        times_ms: Times of the frames instead of an even rate, milliseconds.
    """
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=fps)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        stream.codec_context.thread_count = 1
        stream.options = {"crf": "8", "g": "4"}
        if turn is not None:
            stream.set_display_rotation(turn)
        if times_ms is not None:
            stream.codec_context.time_base = Fraction(1, 1000)
        for index in range(frames):
            pixels = np.full((HEIGHT, WIDTH, 3), 100 + number + index, dtype=np.uint8)
            pixels[: HEIGHT // 2, : WIDTH // 2] = RED
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            if times_ms is None:
                frame.pts = index
            else:
                frame.time_base, frame.pts = Fraction(1, 1000), times_ms[index]
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return buffer.getvalue()


@functools.cache
def ends_early() -> bytes:
    """An mp4 with its table in front, which promises 40 frames, cut off amid their data."""
    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/clip.mp4"
        options = {"movflags": "faststart"}
        whole = io.BytesIO(clip(3, frames=40))
        with av.open(whole) as source, av.open(path, "w", options=options) as target:
            stream = target.add_stream_from_template(source.streams.video[0])
            for packet in source.demux(video=0):
                if packet.dts is not None:
                    packet.stream = stream
                    target.mux(packet)
        data = Path(path).read_bytes()
    return data[: (data.index(b"mdat") + len(data)) // 2]


@functools.cache
def sound_only() -> bytes:
    """An mp4 with a second of silence and no picture."""
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as container:
        stream = container.add_stream("aac", rate=16_000, layout="mono")
        for start in range(0, 16_000, 1024):
            silence = np.zeros((1, 1024), dtype=np.float32)
            frame = av.AudioFrame.from_ndarray(silence, format="fltp", layout="mono")
            frame.sample_rate, frame.pts = 16_000, start
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return buffer.getvalue()
