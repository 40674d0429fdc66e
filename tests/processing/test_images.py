import io
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageOps

from smolvlm2.processing import resampling
from smolvlm2.processing.images import ImageSettings, image_tiles, open_image

Picture = Callable[..., Image.Image]


def _theirs(image: Image.Image, tile: int, edge: int, split: bool = True) -> Any:
    from transformers.models.smolvlm.image_processing_pil_smolvlm import SmolVLMImageProcessorPil

    processor = SmolVLMImageProcessorPil(
        size={"longest_edge": edge},
        max_image_size={"longest_edge": tile},
        do_image_splitting=split,
        do_rescale=False,
        do_normalize=False,
    )
    found = processor(image, return_tensors="np", return_row_col_info=True)
    return found["pixel_values"][0].astype(np.uint8), found["rows"][0][0], found["cols"][0][0]


def _assert_equal(image: Image.Image, opened: Image.Image, tile: int, edge: int, split: bool):
    expected, rows, cols = _theirs(image, tile, edge, split)
    found, *grid = image_tiles(opened, tile, ImageSettings(longest_edge=edge, split=split))
    assert grid == [rows, cols]
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, expected)


SIZES = [(40, 30), (31, 97), (128, 128), (200, 50), (33, 32), (7, 5), (301, 299), (120, 7)]


@pytest.mark.parametrize("split", [True, False])
@pytest.mark.parametrize(("tile", "edge"), [(32, 128), (48, 144), (64, 64), (33, 100), (32, 90)])
@pytest.mark.parametrize("size", SIZES)
def test_exact_pixels_equal_transformers(picture: Picture, size, tile, edge, split):
    image = picture(*size)
    _assert_equal(image, open_image(image), tile, edge, split)


def test_exact_pixels_equal_transformers_at_full_size(picture: Picture):
    image = picture(617, 803)
    _assert_equal(image, open_image(image), 512, 2048, True)


def test_exact_pixels_equal_transformers_above_the_cap(picture: Picture):
    image = picture(90, 40)
    _assert_equal(image, open_image(image), 512, 5000, True)


def _with_exif(image: Image.Image, orientation: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=95, exif=exif)
    return buffer.getvalue()


def _png(image: Image.Image, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG", **options)
    return buffer.getvalue()


def _variants(picture: Picture) -> dict[str, bytes]:
    rgb = picture(70, 45)
    alpha = Image.linear_gradient("L").resize(rgb.size)
    rgba = rgb.copy()
    rgba.putalpha(alpha)
    grey = rgb.convert("L")
    la = Image.merge("LA", [grey, alpha])
    palette = rgb.quantize(60)
    cmyk = io.BytesIO()
    rgb.convert("CMYK").save(cmyk, "JPEG")
    gif = io.BytesIO()
    palette.save(gif, "GIF", save_all=True, append_images=[grey.quantize(8)], transparency=5)
    webp = io.BytesIO()
    rgba.save(webp, "WEBP", lossless=True)
    return {
        **{f"exif {turn}": _with_exif(rgb, turn) for turn in range(1, 9)},
        "rgba": _png(rgba),
        "la": _png(la),
        "palette": _png(palette),
        "palette with one transparent colour": _png(palette, transparency=3),
        "palette with alpha": _png(palette, transparency=bytes(range(0, 240, 4))),
        "colour key": _png(rgb, transparency=rgb.getpixel((3, 4))),
        "grey with key": _png(grey, transparency=120),
        "grey": _png(grey),
        "bilevel": _png(rgb.convert("1")),
        "cmyk": cmyk.getvalue(),
        "gif": gif.getvalue(),
        "webp": webp.getvalue(),
    }


def test_every_kind_of_file_equals_transformers(picture: Picture, tmp_path):
    for name, content in _variants(picture).items():
        path = tmp_path / "picture"
        path.write_bytes(content)
        image = Image.open(io.BytesIO(content))
        if name.startswith("exif"):
            # What transformers.image_utils.load_image does to a path.
            image = ImageOps.exif_transpose(image)
        expected, *_ = _theirs(image, 32, 96)
        for source in (content, path, str(path)):
            found, *_ = image_tiles(open_image(source), 32, ImageSettings(longest_edge=96))
            np.testing.assert_array_equal(found, expected, err_msg=name)


@pytest.mark.parametrize(
    "size", [(128, 96), (300, 300), (640, 480), (64, 64), (50, 100), (64, 32), (75, 300)]
)
def test_fast_is_within_two_levels_where_one_resize_reaches_the_grid(picture: Picture, size):
    image = picture(*size)
    exact, *grid = image_tiles(image, 32, ImageSettings(longest_edge=128))
    fast, *same = image_tiles(image, 32, ImageSettings(longest_edge=128, resample="fast"))
    assert grid == same
    apart = np.abs(exact.astype(int) - fast)
    assert apart.max() <= 2
    assert apart.mean() < 0.2


def test_fast_without_torch_is_one_resize_by_pil(picture: Picture, monkeypatch, caplog):
    monkeypatch.setattr(resampling, "_torch_with_lanczos", lambda: None)
    for size in [(128, 96), (20, 20)]:
        image = picture(*size)
        fast = image_tiles(image, 32, ImageSettings(longest_edge=128, resample="fast"))
        exact = image_tiles(image, 32, ImageSettings(longest_edge=128))
        np.testing.assert_array_equal(fast[0], exact[0])


def test_old_torch_is_noticed_and_logged(monkeypatch, caplog):
    import torch

    def refuse(*_: Any, **__: Any) -> None:
        raise NotImplementedError("lanczos")

    resampling._torch_with_lanczos.cache_clear()
    monkeypatch.setattr(torch.nn.functional, "interpolate", refuse)
    with caplog.at_level("INFO"):
        assert resampling._torch_with_lanczos() is None
    assert "fast uses PIL" in caplog.text
    resampling._torch_with_lanczos.cache_clear()


@pytest.mark.parametrize("resample", ["exact", "fast"])
def test_small_image_without_upscaling_is_one_squashed_tile(picture: Picture, resample: str):
    image = picture(20, 11)
    choice = ImageSettings(longest_edge=128, upscale="never", resample=resample)
    tiles, rows, cols = image_tiles(image, 32, choice)
    squashed = np.asarray(image.resize((32, 32), Image.Resampling.LANCZOS)).transpose(2, 0, 1)
    assert (rows, cols) == (0, 0)
    assert np.abs(tiles[0].astype(int) - squashed).max() <= (0 if resample == "exact" else 2)


def test_image_of_whole_tiles_is_not_resampled(picture: Picture):
    image = picture(64, 32)
    tiles, rows, cols = image_tiles(image, 32, ImageSettings(longest_edge=64))
    assert (rows, cols) == (1, 2)
    pixels = np.asarray(image).transpose(2, 0, 1)
    np.testing.assert_array_equal(tiles[0], pixels[:, :, :32])
    np.testing.assert_array_equal(tiles[1], pixels[:, :, 32:])


@pytest.mark.parametrize("resample", ["exact", "fast"])
def test_tiles_go_where_there_is_room(picture: Picture, resample: str):
    image = picture(100, 60)
    settings = ImageSettings(longest_edge=64, resample=resample)
    tiles, rows, cols = image_tiles(image, 32, settings)
    assert (len(tiles), rows, cols) == (5, 2, 2)
    room = np.zeros((7, 3, 32, 32), dtype=np.uint8)
    placed, *_ = image_tiles(image, 32, settings, out=room[1:])
    assert np.shares_memory(placed, room)
    np.testing.assert_array_equal(room[1:6], tiles)
    assert not room[[0, 6]].any()
    elsewhere, *_ = image_tiles(image, 32, settings, out=room[:4])
    np.testing.assert_array_equal(elsewhere, tiles)
    assert not room[0].any()
