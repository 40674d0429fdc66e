import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from smolvlm2.errors import ConfigError
from smolvlm2.processing.images import ImageSettings, image_tiles, tile_grid
from smolvlm2.processing.tiling import resize_plan

SIDE = st.integers(1, 6000)


@settings(max_examples=300, deadline=None)
@given(SIDE, SIDE, st.sampled_from([32, 384, 512]), st.sampled_from([384, 512, 1536, 2048, 5000]))
def test_sizes_equal_transformers(width: int, height: int, tile: int, edge: int):
    from transformers.image_utils import SizeDict
    from transformers.models.smolvlm import image_processing_pil_smolvlm as theirs

    class Sizes(theirs.SmolVLMImageProcessorPil):
        def resize(self, image: np.ndarray, size: SizeDict, **_: object) -> tuple[int, int]:
            return size.width, size.height

    if max(width, height) > 64 * min(width, height):
        return
    empty = np.broadcast_to(np.uint8(0), (3, height, width))
    first = theirs.get_resize_output_image_size(empty, edge)
    scaled = np.broadcast_to(np.uint8(0), (3, *first))
    grid = Sizes().resize_for_vision_encoder(scaled, tile)
    plan = resize_plan(width, height, tile, ImageSettings(longest_edge=edge))
    assert (plan.scaled_height, plan.scaled_width) == first
    assert (plan.grid_width, plan.grid_height) == grid
    one = grid == (tile, tile)
    assert (plan.rows, plan.cols) == ((0, 0) if one else (grid[1] // tile, grid[0] // tile))


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 700),
    st.integers(1, 700),
    st.sampled_from([32, 384, 512]),
    st.sampled_from(["always", "never"]),
    st.booleans(),
    st.sampled_from([None, 20, 64, 390, 513]),
)
def test_planned_grid_is_the_grid_that_is_cut(width, height, tile, upscale, split, override):
    choice = ImageSettings(longest_edge=520, upscale=upscale, split=split)
    image = Image.new("RGB", (width, height))
    tiles, rows, cols = image_tiles(image, tile, choice, override)
    planned = tile_grid([width, 9], [height, 9], tile, choice, override)
    assert (planned[0][0], planned[1][0]) == (rows, cols)
    assert tiles.shape == (rows * cols + 1, 3, tile, tile)


@given(SIDE, SIDE, st.sampled_from([32, 384, 512]))
def test_never_upscale_enlarges_only_to_whole_tiles(width: int, height: int, tile: int):
    choice = ImageSettings(longest_edge=4 * tile, upscale="never")
    plan = resize_plan(width, height, tile, choice)
    assert max(plan.scaled_width, plan.scaled_height) <= max(4 * tile, 1)
    if max(width, height) <= 4 * tile:
        assert (plan.scaled_width, plan.scaled_height) == (width, height)
    fits = width <= tile and height <= tile
    assert (plan.rows == 0) == (plan.cols == 0)
    if fits:
        assert plan.rows == 0
    longest = max(int(plan.grid_width), int(plan.grid_height))
    assert longest < max(width, height) + tile


def test_small_images_cost_one_tile_only_without_upscaling():
    grids = {u: tile_grid(386, 386, 512, ImageSettings(upscale=u)) for u in ("always", "never")}
    assert tuple(map(int, grids["always"])) == (4, 4)
    assert tuple(map(int, grids["never"])) == (0, 0)


@pytest.mark.parametrize(
    ("size", "tiles"),
    [((1000, 1000), 17), ((1600, 1200), 13), ((1920, 1080), 13), ((3000, 500), 5)],
)
def test_published_tile_counts(size: tuple[int, int], tiles: int):
    rows, cols = tile_grid(*size, 512, ImageSettings())
    assert rows * cols + 1 == tiles


def test_longest_edge_may_differ_per_image():
    rows, cols = tile_grid([800] * 3, [600] * 3, 512, ImageSettings(), [512, 1024, 2048])
    assert list(zip(rows.tolist(), cols.tolist(), strict=True)) == [(0, 0), (2, 2), (3, 4)]


@pytest.mark.parametrize(
    ("wrong", "match"),
    [
        ({"upscale": "sometimes"}, "image.upscale is 'sometimes'; expected always or never"),
        ({"resample": "nearest"}, "image.resample is 'nearest'; expected exact or fast"),
        ({"longest_edge": 0}, "image.longest_edge 0"),
        ({"max_aspect": 0.5}, "max_aspect 0.5 must be at least 1"),
    ],
)
def test_impossible_settings_are_rejected(wrong: dict[str, object], match: str):
    with pytest.raises(ConfigError, match=match):
        ImageSettings(**wrong)
