"""Pixels between layouts and sizes: PIL's for equality, torch's for speed."""

import functools
import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

logger = logging.getLogger(__name__)


def channels(image: Image.Image) -> list[np.ndarray]:
    """The planes of an RGB image: three times uint8 ``(H, W)``, contiguous.

    PIL's own split takes 4 ms for 2048 x 1536; moving channels in NumPy takes 9 ms.
    """
    return [np.asarray(band) for band in image.split()]


def fast_lanczos(
    image: Image.Image, size: tuple[int, int], whole_size: int | None
) -> tuple[Sequence[np.ndarray], Sequence[np.ndarray] | None]:
    """One antialiased Lanczos resize from the source to the grid, and one to the global tile.

    Args:
        image: RGB.
        size: Width and height of the grid, in pixels.
        whole_size: Side of the global tile, in pixels; None leaves it out.

    Returns:
        Three planes uint8 ``(H, W)`` of the grid, and three ``(whole_size, whole_size)`` of the
        global tile or None. The global tile is made from the grid, as published.
    """
    grid = _fast_resize(channels(image) if image.size == size else image, size)
    if whole_size is None:
        return grid, None
    return grid, _fast_resize(grid, (whole_size, whole_size))


def fast_frame(image: Image.Image, size: tuple[int, int], tile_size: int) -> Sequence[np.ndarray]:
    """A frame at ``size``, then squashed to a tile: both resizes of the recipe, by torch.

    Within 2/255 of PIL's in a third of the time; one resize straight to the tile is not: at 16:9
    it is 4 to 6 levels off on average (docs/decisions/009-loader.md).

    Args:
        image: RGB.
        size: Width and height after the first resize, in pixels.
        tile_size: Side S of the tile.

    Returns:
        Three planes uint8 ``(S, S)``.
    """
    scaled = _fast_resize(channels(image) if image.size == size else image, size)
    return _fast_resize(scaled, (tile_size, tile_size))


def _fast_resize(source: Image.Image | Sequence[np.ndarray], size: tuple[int, int]) -> Any:
    """Planes of ``source`` at ``size`` (width, height); planes of that size are passed through."""
    if isinstance(source, Image.Image):
        width, height = source.size
        tall = height >= 2 * width and height > size[1]
    else:
        height, width = source[0].shape
        if (width, height) == size:
            return source
        tall = 2 * height >= 3 * width
    torch = _torch_with_lanczos()
    if torch is None or tall:
        # Pillow 13 takes tall images down the columns first, torch always along the rows; overshoot
        # is clipped in between, which puts them up to 11 levels apart at hard edges.
        if not isinstance(source, Image.Image):
            source = Image.fromarray(np.stack(source, axis=-1))
        return channels(source.resize(size, Image.Resampling.LANCZOS))
    if isinstance(source, Image.Image):
        # Channel last in, channel first out: 22 ms for an A4 page at 300 dpi, 42 ms from planes.
        pixels = torch.from_numpy(np.array(source)).permute(2, 0, 1)[None]
    else:
        pixels = torch.from_numpy(np.asarray(source))[None]
    resized = torch.nn.functional.interpolate(
        pixels, size=size[::-1], mode="lanczos", antialias=True
    )
    return resized[0].numpy()


@functools.cache
def _torch_with_lanczos() -> Any:
    """The torch module if its ``interpolate`` knows Lanczos on uint8 (2.12 on), else None."""
    try:
        import torch

        probe = torch.zeros(1, 3, 4, 4, dtype=torch.uint8)
        torch.nn.functional.interpolate(probe, size=(2, 2), mode="lanczos", antialias=True)
    except (ImportError, NotImplementedError, RuntimeError, ValueError) as error:
        logger.info("resample: fast uses PIL, because torch's Lanczos is not there (%s)", error)
        return None
    return torch
