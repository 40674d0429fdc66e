"""Which grid of tiles an image gets, from its size alone; one formula for planner and pixels."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from smolvlm2.errors import ConfigError

LARGEST_EDGE = 4096
"""No image is resized to more than this, in pixels, before it is rounded up to whole tiles."""


@dataclass(kw_only=True)
class ImageSettings:
    """How an image becomes tiles."""

    longest_edge: int = 2048
    """Pixels of the longest edge before the image is rounded up to whole tiles."""
    split: bool = True
    """Whether large images are cut into tiles; otherwise each image is one tile."""
    upscale: Literal["always", "never"] = "always"
    """Whether small images are enlarged to ``longest_edge`` (as published) or never."""
    random_tiles: bool = False
    """Whether each sample of training draws its own longest edge, up to ``longest_edge``."""
    resample: Literal["exact", "fast"] = "exact"
    """``exact`` equals transformers bit for bit; ``fast`` is one resize, within 2/255 of it where
    one resize reaches the grid."""
    max_pixels: int = 100_000_000
    """Images with more pixels are refused as ``bad_image_size``."""
    max_aspect: float = 20
    """Images with a larger ratio of sides are refused as ``bad_image_size``."""

    def __post_init__(self) -> None:
        for name, allowed in (("upscale", ("always", "never")), ("resample", ("exact", "fast"))):
            if getattr(self, name) not in allowed:
                raise ConfigError(
                    f"image.{name} is {getattr(self, name)!r}; expected {' or '.join(allowed)}"
                )
        if min(self.longest_edge, self.max_pixels) < 1 or self.max_aspect < 1:
            raise ConfigError(
                f"image.longest_edge {self.longest_edge}, max_pixels {self.max_pixels} and "
                f"max_aspect {self.max_aspect} must be at least 1"
            )


@dataclass(frozen=True)
class ResizePlan:
    """Sizes on the way from an image to its tiles; every field is ``(n,)`` int64, in pixels."""

    scaled_width: np.ndarray
    scaled_height: np.ndarray
    """Size after the first resize, which keeps the ratio of sides."""
    grid_width: np.ndarray
    grid_height: np.ndarray
    """Size after the second resize, in whole tiles."""
    rows: np.ndarray
    cols: np.ndarray
    """Grid of crops; 0 x 0 where the image is a single tile."""


def resize_plan(
    widths: ArrayLike,
    heights: ArrayLike,
    tile_size: int,
    settings: ImageSettings,
    longest_edge: ArrayLike | None = None,
) -> ResizePlan:
    """Compute all sizes for any number of images.

    Args:
        widths: Upright widths, in pixels, ``(n,)`` or one number.
        heights: Upright heights, in pixels.
        tile_size: Side of a tile, in pixels.
        settings: How images become tiles.
        longest_edge: Overrides ``settings.longest_edge``; one value or ``(n,)``.

    Source:
        docs/model.md, image algorithm; equal to transformers' SmolVLMImageProcessorPil, in float64
        like there, because a rounded ratio decides between n and n + 1 rows.
    """
    width, height = np.asarray(widths, dtype=np.int64), np.asarray(heights, dtype=np.int64)
    edge = np.asarray(settings.longest_edge if longest_edge is None else longest_edge)
    longest = np.maximum(width, height)
    scaled_width, scaled_height = _scale_to(width, height, edge, even=True)
    keep = (longest <= edge) & (settings.upscale == "never")
    width = np.where(keep, width, scaled_width)
    height = np.where(keep, height, scaled_height)
    capped = _scale_to(width, height, np.int64(LARGEST_EDGE), even=False)
    over = np.maximum(width, height) > LARGEST_EDGE
    width = np.maximum(np.where(over, capped[0], width), 1)
    height = np.maximum(np.where(over, capped[1], height), 1)

    if settings.split:
        # The longer side is rounded up first; the other follows in proportion, then is rounded up.
        long_side = _round_up(np.maximum(width, height), tile_size)
        aspect = width / height
        wide = width >= height
        grid_width = np.where(
            wide, long_side, _round_up((long_side * aspect).astype(int), tile_size)
        )
        grid_height = np.where(
            wide, _round_up((long_side / aspect).astype(int), tile_size), long_side
        )
    else:
        grid_width = grid_height = np.full_like(width, tile_size)
    split = (grid_width > tile_size) | (grid_height > tile_size)
    rows = np.where(split, grid_height // tile_size, 0)
    cols = np.where(split, grid_width // tile_size, 0)
    return ResizePlan(width, height, grid_width, grid_height, rows, cols)


def tile_grid(
    widths: ArrayLike,
    heights: ArrayLike,
    tile_size: int,
    settings: ImageSettings,
    longest_edge: ArrayLike | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Rows and columns of crops; 0, 0 means one tile. Arguments as in ``resize_plan``.

    >>> tile_grid([386, 4000], [386, 3000], 512, ImageSettings())
    (array([4, 3]), array([4, 4]))
    """
    plan = resize_plan(widths, heights, tile_size, settings, longest_edge)
    return plan.rows, plan.cols


def _scale_to(
    width: np.ndarray, height: np.ndarray, edge: np.ndarray, *, even: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Bring the longest edge to ``edge``; the other follows, rounded down (then up to even)."""
    aspect = width / height
    wide = width >= height
    other = np.where(wide, edge / aspect, edge * aspect).astype(np.int64)
    if even:
        other += other % 2
    other = np.maximum(other, 1)
    return np.where(wide, edge, other), np.where(wide, other, edge)


def _round_up(length: np.ndarray, tile_size: int) -> np.ndarray:
    return np.maximum(-(-length // tile_size), 1) * tile_size
