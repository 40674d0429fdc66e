"""What prepare learns from the bytes of a medium, and what it refuses by them."""

import dataclasses
import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from smolvlm2.data.media import MediaLocator
from smolvlm2.data.media_facts import MediaFacts, media_suffix, probe


def png_header(width: int, height: int) -> bytes:
    """A PNG that claims a size without holding a pixel."""
    body = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    empty = b"IDAT" + zlib.compress(b"")
    chunks = [
        struct.pack(">I", len(c) - 4) + c + struct.pack(">I", zlib.crc32(c)) for c in (body, empty)
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def test_images_are_measured_upright():
    buffer = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(np.zeros((20, 30), dtype=np.uint8)).save(buffer, "JPEG", exif=exif)
    facts = probe("image", buffer.getvalue())
    assert (facts.width, facts.height) == (20, 30)


@pytest.mark.parametrize(
    ("width", "height", "reason"),
    [
        (10_000, 10_000, None),
        (10_001, 10_000, "bad_image_size"),
        (200_000, 200_000, "bad_image_size"),
        (200, 10, None),
        (10, 201, "bad_image_size"),
        (5, 0, "bad_image_size"),
    ],
)
def test_sizes_are_judged_by_the_header(width, height, reason):
    found = probe("image", png_header(width, height)).reason
    assert found == reason or (min(width, height) == 0 and found == "corrupt_media")


@pytest.mark.parametrize(
    ("kind", "data", "reason"),
    [
        ("image", b"", "corrupt_media"),
        ("image", b"hello", "corrupt_media"),
        ("image", b"<svg xmlns='x'/>", "unsupported_media"),
        ("image", b"  <?xml version='1.0'?>", "unsupported_media"),
        ("image", b"\0\0\0\x18ftypheic" + bytes(20), "unsupported_media"),
        ("image", b"\x1a\x45\xdf\xa3" + bytes(20), "unsupported_media"),
        ("video", b"", "corrupt_media"),
        ("video", b"\0\0\0\x18ftypisom" + bytes(20), "corrupt_media"),
        ("video", png_header(10, 10), "unsupported_media"),
    ],
)
def test_unusable_bytes_get_a_reason_and_a_detail(kind, data, reason):
    facts = probe(kind, data)
    assert facts.reason == reason
    assert facts.detail


def test_an_image_is_not_a_video_whatever_its_name_and_the_reverse(png, mp4):
    assert probe("image", mp4).reason == "unsupported_media"
    assert probe("video", png(1)).reason == "unsupported_media"
    assert (media_suffix(mp4), media_suffix(png(1))) == ("mp4", "png")


def test_facts_survive_json(mp4):
    facts = probe("video", mp4).at(MediaLocator("video", "a", 3, 4))
    assert MediaFacts.from_json(facts.to_json()) == facts
    unusable = dataclasses.replace(facts, locator=None, reason="corrupt_media", detail="x")
    assert MediaFacts.from_json(unusable.to_json()) == unusable
