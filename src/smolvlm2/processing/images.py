"""Images to tiles: the names that other rooms use, and the cutting itself."""

import numpy as np
from PIL import Image

from smolvlm2.processing.image_reading import image_size, open_image
from smolvlm2.processing.resampling import channels, fast_lanczos
from smolvlm2.processing.tiling import ImageSettings, resize_plan, tile_grid

__all__ = ["ImageSettings", "image_size", "image_tiles", "open_image", "tile_grid", "tile_room"]


def image_tiles(
    image: Image.Image,
    tile_size: int,
    settings: ImageSettings,
    longest_edge: int | None = None,
    out: np.ndarray | None = None,
) -> tuple[np.ndarray, int, int]:
    """Cut an image into tiles for the vision encoder.

    Args:
        image: RGB, upright, as ``open_image`` returns it.
        tile_size: Side S of a tile, in pixels.
        settings: How images become tiles.
        longest_edge: Overrides the setting for this image, in pixels.
        out: uint8 ``(n, 3, S, S)`` whose first T entries the tiles are written to; not used where
            it has fewer.

    Returns:
        Tiles uint8 ``(T, 3, S, S)``, crops row by row, then the whole image squashed to a square;
        and the grid's rows and columns, 0 and 0 where T is 1.

    Source:
        Equal to transformers' SmolVLMImageProcessorPil before rescaling (tests/processing).
    """
    plan = resize_plan(image.width, image.height, tile_size, settings, longest_edge)
    rows, cols = int(plan.rows), int(plan.cols)
    grid = (int(plan.grid_width), int(plan.grid_height))
    tiles = tile_room(rows * cols + 1, tile_size, out)
    if settings.resample == "fast":
        bands, whole = fast_lanczos(image, grid, tile_size if rows else None)
    else:
        image = _resize(image, (int(plan.scaled_width), int(plan.scaled_height)))
        image = _resize(image, grid)
        bands = channels(image)
        # The whole image is squashed from the grid, not from the source: so it is published.
        whole = channels(_resize(image, (tile_size, tile_size))) if rows else None
    crops = tiles[: rows * cols].reshape(rows, cols, 3, tile_size, tile_size)
    for channel in range(3):
        if whole is None:
            tiles[0, channel] = bands[channel]
            continue
        cut = bands[channel].reshape(rows, tile_size, cols, tile_size)
        crops[:, :, channel] = cut.transpose(0, 2, 1, 3)
        tiles[-1, channel] = whole[channel]
    return tiles, rows, cols


def tile_room(count: int, tile_size: int, out: np.ndarray | None) -> np.ndarray:
    """The first ``count`` tiles of ``out``, or new memory where it has no room for them."""
    if out is not None and len(out) >= count:
        return out[:count]
    return np.empty((count, 3, tile_size, tile_size), dtype=np.uint8)


def _resize(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    # PIL's resize to the same size is a copy.
    return image if image.size == size else image.resize(size, Image.Resampling.LANCZOS)
