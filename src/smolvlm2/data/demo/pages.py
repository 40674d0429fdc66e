"""Digit scans drawn onto pages: upscaled smoothly, turned, placed, inked, with a little noise."""

import io
from dataclasses import dataclass

import numpy as np
from PIL import Image

GLYPH_MARGIN = 1
"""Empty scan pixels added on every side, so that a turned digit keeps its corners."""


@dataclass(frozen=True, kw_only=True)
class Style:
    """How one page looks: grey levels 0 to 255 and the strength of its noise."""

    paper: float
    ink: float
    noise: float

    @classmethod
    def random(cls, rng: np.random.Generator) -> "Style":
        """Draw a legible style: dark on light, at least 90 grey levels apart."""
        return cls(
            paper=float(rng.uniform(185, 255)),
            ink=float(rng.uniform(0, 95)),
            noise=float(rng.uniform(0, 7)),
        )


@dataclass(frozen=True, kw_only=True)
class Glyph:
    """One digit ready to be put on a page."""

    coverage: np.ndarray
    """``(S, S)`` float32 share of ink per pixel, 0 to 1."""
    left: float
    """Left edge on the page in pixels; rounded when drawn."""
    top: float
    """Top edge on the page in pixels; rounded when drawn."""


def digit_coverage(
    scan: np.ndarray, *, size: int, angle: float, stretch: float = 1.0, slant: float = 0.0
) -> np.ndarray:
    """Upscale one scan smoothly, turn and bend it.

    Args:
        scan: ``(8, 8)`` uint8, 0 to 16.
        size: Side of the result in pixels, margin included.
        angle: Degrees, counter-clockwise.
        stretch: Factor of the width over the height's; the area stays.
        slant: Pixels to the right for each pixel up.

    Returns:
        ``(size, size)`` float32 in 0 to 1.
    """
    padded = np.pad(scan.astype(np.float32), GLYPH_MARGIN) * (255 / 16)
    image = Image.fromarray(padded.astype(np.uint8))
    image = image.resize((size, size), Image.Resampling.BICUBIC)
    image = image.rotate(angle, Image.Resampling.BICUBIC)
    if stretch != 1.0 or slant:
        # From a place in the result to its place in the image, about the middle.
        wide, high, middle = stretch**-0.5, stretch**0.5, (size - 1) / 2
        across = (wide, wide * slant, middle * (1 - wide - wide * slant))
        image = image.transform(
            image.size,
            Image.Transform.AFFINE,
            (*across, 0.0, high, middle * (1 - high)),
            Image.Resampling.BICUBIC,
        )
    return np.asarray(image, dtype=np.float32) / 255


def random_glyph(
    scan: np.ndarray,
    rng: np.random.Generator,
    *,
    box: tuple[float, float, float, float],
    scale: tuple[float, float] = (0.72, 1.0),
    bend: float = 0.0,
) -> Glyph:
    """Put a scan at a random size, angle and place inside a box.

    Args:
        scan: ``(8, 8)`` uint8, 0 to 16.
        rng: Consumed for size, angle and place.
        box: Left, top, width, height in pixels.
        scale: Smallest and largest side of the digit, as shares of the box's shorter side.
        bend: Strength of random stretch and slant; see ``Scans.bend``.
    """
    left, top, width, height = box
    shorter = min(width, height)
    size = round(shorter * rng.uniform(*scale))
    angle = float(rng.uniform(-12, 12))
    bent = {}
    if bend:
        bent = {"stretch": np.exp(rng.uniform(-bend, bend)), "slant": rng.uniform(-bend, bend)}
    return Glyph(
        coverage=digit_coverage(scan, size=size, angle=angle, **bent),
        left=left + rng.uniform(0, width - size),
        top=top + rng.uniform(0, height - size),
    )


def draw_page(
    glyphs: list[Glyph], *, width: int, height: int, style: Style, rng: np.random.Generator
) -> np.ndarray:
    """Draw digits onto one page; what lies outside the page is clipped.

    Returns:
        ``(height, width)`` uint8 grey levels.
    """
    ink = np.zeros((height, width), dtype=np.float32)
    for glyph in glyphs:
        size = len(glyph.coverage)
        left, top = round(glyph.left), round(glyph.top)
        x0, x1 = max(left, 0), min(left + size, width)
        y0, y1 = max(top, 0), min(top + size, height)
        if x0 >= x1 or y0 >= y1:
            continue
        part = glyph.coverage[y0 - top : y1 - top, x0 - left : x1 - left]
        np.maximum(ink[y0:y1, x0:x1], part, out=ink[y0:y1, x0:x1])
    page = style.paper + (style.ink - style.paper) * ink
    page += rng.standard_normal(page.shape, dtype=np.float32) * style.noise
    return np.clip(np.rint(page), 0, 255).astype(np.uint8)


def encode_page(page: np.ndarray, suffix: str = "png") -> bytes:
    """Encode a grey page as PNG or JPEG bytes (``suffix`` ``png`` or ``jpg``)."""
    buffer = io.BytesIO()
    if suffix == "png":
        Image.fromarray(page).save(buffer, "PNG", compress_level=6)
    else:
        Image.fromarray(page).save(buffer, "JPEG", quality=92)
    return buffer.getvalue()
