"""Short H.264 clips of digits that move or change."""

import io
from fractions import Fraction

import av
import numpy as np

from smolvlm2.data.demo.pages import Glyph, Style, digit_coverage, draw_page

DIRECTIONS = ("left", "right", "up", "down")
_STEP = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}


def moving_clip(
    scan: np.ndarray,
    direction: str,
    rng: np.random.Generator,
    *,
    size: tuple[int, int],
    fps: int,
    seconds: float,
) -> bytes:
    """Film one digit crossing the frame at an even pace.

    Args:
        scan: ``(8, 8)`` uint8, 0 to 16.
        direction: One of ``DIRECTIONS``.
        rng: Consumed for the looks and the place across the way.
        size: Width and height in pixels, both even.
        fps: Frames per second.
        seconds: Length; rounded to whole frames.

    Returns:
        The bytes of an mp4 file.
    """
    width, height = size
    side = round(min(size) * rng.uniform(0.55, 0.66))
    coverage = digit_coverage(scan, size=side, angle=float(rng.uniform(-10, 10)))
    style = Style.random(rng)
    dx, dy = _STEP[direction]
    room_x, room_y = width - side, height - side
    across = rng.uniform(0.15, 0.85)
    frames = []
    count = max(2, round(fps * seconds))
    for index in range(count):
        along = index / (count - 1)
        x = (along if dx > 0 else 1 - along) if dx else across
        y = (along if dy > 0 else 1 - along) if dy else across
        glyph = Glyph(coverage=coverage, left=x * room_x, top=y * room_y)
        frames.append(draw_page([glyph], width=width, height=height, style=style, rng=rng))
    return encode_clip(np.stack(frames), fps=fps)


def changing_clip(
    scans: list[np.ndarray],
    change_seconds: list[int],
    rng: np.random.Generator,
    *,
    size: tuple[int, int],
    fps: int,
    seconds: int,
) -> bytes:
    """Film digits that replace one another on the spot.

    Args:
        scans: ``len(change_seconds) + 1`` scans ``(8, 8)`` in the order shown.
        change_seconds: Whole seconds at which the next digit appears, rising. Whole seconds
            because videos are read at one frame a second: every digit is then seen.
        rng: Consumed for the looks.
        size: Width and height in pixels, both even.
        fps: Frames per second.
        seconds: Length.

    Returns:
        The bytes of an mp4 file.
    """
    width, height = size
    side = round(min(size) * rng.uniform(0.75, 0.95))
    style = Style.random(rng)
    left, top = rng.uniform(0, width - side), rng.uniform(0, height - side)
    glyphs = [
        Glyph(
            coverage=digit_coverage(scan, size=side, angle=float(rng.uniform(-10, 10))),
            left=left,
            top=top,
        )
        for scan in scans
    ]
    frames = []
    for index in range(fps * seconds):
        shown = sum(index >= second * fps for second in change_seconds)
        page = draw_page([glyphs[shown]], width=width, height=height, style=style, rng=rng)
        frames.append(page)
    return encode_clip(np.stack(frames), fps=fps)


def encode_clip(frames_THW: np.ndarray, *, fps: int) -> bytes:
    """Encode grey frames as H.264 in an mp4 file; one thread, so equal frames give equal bytes.

    Args:
        frames_THW: ``(T, H, W)`` uint8 with even ``H`` and ``W`` (yuv420p halves them).
        fps: Frames per second.
    """
    buffer = io.BytesIO()
    count, height, width = frames_THW.shape
    grey = np.full((height // 2, width), 128, dtype=np.uint8)
    with av.open(buffer, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=fps)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.codec_context.thread_count = 1
        stream.codec_context.time_base = Fraction(1, fps)
        stream.options = {"crf": "14", "preset": "ultrafast", "threads": "1"}
        for index in range(count):
            planes = np.concatenate([frames_THW[index], grey])
            frame = av.VideoFrame.from_ndarray(planes, format="yuv420p")
            frame.pts = index
            frame.time_base = Fraction(1, fps)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return buffer.getvalue()
