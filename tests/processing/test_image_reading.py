import io
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, PngImagePlugin, features

from smolvlm2.errors import MediaError, MediaNotFoundError
from smolvlm2.processing.images import ImageSettings, image_size, open_image


def _save(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def test_bytes_paths_and_pil_images_read_alike(picture: Callable[..., Image.Image], tmp_path: Path):
    image = picture(20, 10)
    path = tmp_path / "wrong_ending.gif"
    path.write_bytes(_save(image))
    for source in (path, str(path), path.read_bytes(), image):
        opened = open_image(source)
        assert opened.mode == "RGB"
        np.testing.assert_array_equal(np.asarray(opened), np.asarray(image))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_size_from_the_header_is_the_upright_size(kind: str, orientation: int):
    exif = Image.Exif()
    exif[0x0112] = orientation
    content = _save(Image.new("RGB", (30, 20)), kind, exif=exif)
    expected = (30, 20) if orientation < 5 else (20, 30)
    assert image_size(content) == expected
    assert open_image(content).size == expected


@pytest.mark.parametrize("orientation", range(2, 9))
def test_every_orientation_comes_upright(orientation: int):
    from PIL import ImageOps

    pixels = np.arange(6 * 4 * 3, dtype=np.uint8).reshape(4, 6, 3)
    exif = Image.Exif()
    exif[0x0112] = orientation
    for kind in ("PNG", "TIFF"):
        content = _save(Image.fromarray(pixels), kind, exif=exif)
        expected = ImageOps.exif_transpose(Image.open(io.BytesIO(content)))
        np.testing.assert_array_equal(np.asarray(open_image(content)), np.asarray(expected))


def test_nonsense_orientation_is_ignored():
    exif = Image.Exif()
    exif[0x0112] = 77
    assert image_size(_save(Image.new("RGB", (3, 2)), "JPEG", exif=exif)) == (3, 2)


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "PPM"])
def test_sixteen_bit_grey_is_scaled_not_clipped(kind: str):
    levels = np.array([[0, 255, 257, 32768, 65535]], dtype=np.uint16)
    opened = open_image(_save(Image.fromarray(levels), kind))
    assert np.asarray(opened)[0, :, 0].tolist() == [0, 1, 1, 128, 255]


def test_transparency_lies_over_white():
    image = Image.new("RGBA", (2, 1), (0, 0, 0, 0))
    image.putpixel((1, 0), (10, 20, 30, 255))
    assert np.asarray(open_image(image)).tolist() == [[[255, 255, 255], [10, 20, 30]]]


def test_first_frame_of_an_animation_is_read():
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")]
    content = _save(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert open_image(content).getpixel((0, 0)) == (255, 0, 0)


def _error(source: Any, match: str, **settings: Any) -> MediaError:
    with pytest.raises(MediaError, match=match) as caught:
        open_image(source, ImageSettings(**settings))
    return caught.value


def test_bombs_are_refused_on_the_header(monkeypatch: pytest.MonkeyPatch):
    content = _save(Image.new("1", (5000, 5000)))
    with monkeypatch.context() as patch:
        patch.setattr(Image.Image, "load", lambda _: pytest.fail("pixels were decoded"))
        error = _error(content, "5000 x 5000 is 25000000 pixels, at most 1000", max_pixels=1000)
    assert error.reason == "bad_image_size"
    assert _error(Image.new("1", (50, 50)), "image: 50 x 50", max_pixels=9).reason == (
        "bad_image_size"
    )


def test_pil_s_own_limit_is_the_same_reason_and_no_warning(monkeypatch: pytest.MonkeyPatch):
    content = _save(Image.new("1", (3000, 1000)))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 2_000_000)  # only warns
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        assert open_image(content).size == (3000, 1000)
        filters = list(warnings.filters)
        open_image(content)
        assert list(warnings.filters) == filters
    assert not seen
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1_000_000)  # raises
    for read in (open_image, image_size):
        with pytest.raises(MediaError, match="exceeds limit") as caught:
            read(content)
        assert caught.value.reason == "bad_image_size"
    assert Image.MAX_IMAGE_PIXELS == 1_000_000


def test_extreme_ratios_are_refused():
    assert _error(_save(Image.new("L", (201, 10))), "ratio above 20").reason == "bad_image_size"
    assert open_image(_save(Image.new("L", (200, 10)))).size == (200, 10)
    assert _error(Image.new("RGB", (0, 5)), "0 x 5 pixels").reason == "bad_image_size"


def test_broken_files_are_corrupt_media(picture: Callable[..., Image.Image], tmp_path: Path):
    jpeg = _save(picture(60, 60), "JPEG")
    png = bytearray(_save(picture(60, 60)))
    png[200:260] = bytes(60)
    for content, match in [
        (b"", "not an image"),
        (b"hello world, no picture", "not an image in a known format"),
        (jpeg[: len(jpeg) // 2], "JPEG image does not decode"),
        (bytes(png), "PNG image does not decode"),
        (jpeg[:30], "not an image|header"),
    ]:
        assert _error(content, match).reason == "corrupt_media"
    path = tmp_path / "cut.jpg"
    path.write_bytes(jpeg[:1000])
    _error(path, r"cut\.jpg: JPEG image does not decode")


@pytest.mark.skipif(not features.check("avif"), reason="this build of PIL reads no AVIF")
def test_a_broken_avif_is_corrupt_media(picture: Callable[..., Image.Image]):
    avif = _save(picture(60, 60), "AVIF").replace(b"pitm", b"none")
    assert _error(avif, "AVIF|header does not read").reason == "corrupt_media"


@pytest.mark.parametrize("behind", [False, True])
def test_a_png_with_notes_longer_than_a_megabyte_is_read(behind: bool):
    notes = PngImagePlugin.PngInfo()
    notes.add_text("comment", "a" * (2 << 20), zip=True)
    notes.add_itxt("other", "b" * (2 << 20), zip=True)
    buffer = io.BytesIO()
    Image.new("RGB", (6, 4), (9, 8, 7)).save(buffer, "PNG", pnginfo=notes)
    content = buffer.getvalue()
    if behind:  # some programs write their notes behind the pixels
        start, end = content.index(b"zTXt") - 4, content.index(b"IDAT") - 4
        tail = content.index(b"IEND") - 4
        content = content[:start] + content[end:tail] + content[start:end] + content[tail:]
    assert image_size(content) == (6, 4)
    assert open_image(content).getpixel((5, 3)) == (9, 8, 7)


def test_notes_of_a_png_that_hold_its_orientation_stay():
    exif = Image.Exif()
    exif[0x0112] = 6
    block = b"\nexif\n%8d\n" % len(exif.tobytes()) + exif.tobytes().hex().encode() + b"\n"
    notes = PngImagePlugin.PngInfo()
    notes.add_text("Raw profile type exif", block.decode(), zip=True)
    buffer = io.BytesIO()
    Image.new("RGB", (6, 4)).save(buffer, "PNG", pnginfo=notes)
    assert image_size(buffer.getvalue()) == (4, 6)


def test_documents_are_no_images():
    eps = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n"
    _error(eps, "not an image in a known format")


def test_missing_files_are_named(tmp_path: Path):
    with pytest.raises(MediaNotFoundError, match=r"none\.png: no such image file") as caught:
        open_image(tmp_path / "none.png")
    assert caught.value.reason == "missing_media"
    with pytest.raises(MediaError, match="cannot be read"):
        open_image(tmp_path)


def test_an_open_image_that_does_not_decode_is_corrupt(picture: Callable[..., Image.Image]):
    cut = Image.open(io.BytesIO(_save(picture(90, 90), "JPEG")[:1500]))
    assert _error(cut, "image: JPEG image does not decode .*truncated").reason == "corrupt_media"
    odd = picture(9, 9).convert("LA").convert("La")
    assert _error(odd, "image: La image does not decode").reason == "corrupt_media"


def test_a_path_that_no_file_can_have_is_corrupt():
    assert _error("a\0b", "image file cannot be read").reason == "corrupt_media"


def test_other_objects_are_unsupported():
    assert _error(12, "image is a int; expected bytes").reason == "unsupported_media"
