"""Odd pictures and clips through prepare: upright and in true colours, or refused."""

import importlib.util
import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from smolvlm2.data.demo.layouts import CAULDRON_SCHEMA
from smolvlm2.data.manifest import Manifest
from smolvlm2.data.media import MediaStore
from smolvlm2.data.prepare import prepare_source
from smolvlm2.data.sources.cauldron import ImagesAndTexts
from smolvlm2.data.sources.vista import Vista
from smolvlm2.processing.images import open_image
from smolvlm2.processing.video import VideoSettings, read_video

# Test folders are no packages: the builders are loaded by their path.
_spec = importlib.util.spec_from_file_location(
    "replica_media", Path(__file__).parent / "replicas" / "media.py"
)
media = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(media)

GREY, WHITE = (90, 90, 90), (255, 255, 255)
UPPER_LEFT, UPPER_RIGHT = (4, 4), (-4, 4)
PICTURES = {
    # Made by, where it is red, colour of the lower right corner.
    "turned": (media.turned_jpeg, UPPER_RIGHT, GREY),
    "palette with transparency": (media.palette_png, UPPER_LEFT, WHITE),
    "transparency over black": (media.alpha_png, UPPER_LEFT, WHITE),
    "cmyk": (media.cmyk_jpeg, UPPER_LEFT, GREY),
    "16 bit": (media.grey16_png, None, (233, 233, 233)),
    "animated gif": (lambda: media.animation("GIF"), UPPER_LEFT, GREY),
    "animated webp": (lambda: media.animation("WEBP"), UPPER_LEFT, GREY),
    "long notes": (media.wordy_png, UPPER_LEFT, GREY),
}


@pytest.fixture(scope="module")
def pictures(tmp_path_factory, tokenizer):
    """All pictures prepared, the bomb last: manifest, and lines of the ledger."""
    root = tmp_path_factory.mktemp("pictures") / "data"
    raw = root / "raw" / "owner__pictures" / "set"
    raw.mkdir(parents=True)
    contents = [make() for make, *_ in PICTURES.values()] + [media.huge_png()]
    rows = [
        {
            "images": [{"bytes": content, "path": None}],
            "texts": [{"user": "q", "assistant": "a", "source": "s"}],
        }
        for content in contents
    ]
    table = pa.Table.from_pylist(rows, CAULDRON_SCHEMA)
    pq.write_table(table, raw / "train-00000-of-00001.parquet")
    out = root / "prepared" / "pictures"
    prepare_source(ImagesAndTexts(source="pictures", licence="none"), raw.parent, out, tokenizer)
    ledger = (out / "ledger.jsonl").read_text().splitlines()
    return Manifest.open(out), [json.loads(line) for line in ledger]


@pytest.mark.parametrize("name", PICTURES)
def test_a_picture_is_kept_upright_and_in_its_colours(name, pictures):
    manifest, _ = pictures
    number = list(PICTURES).index(name)
    _, red, corner = PICTURES[name]
    image = open_image(MediaStore(manifest.data_root).read(manifest.row(number).media[0]))
    geometry = manifest.geometry
    assert image.size == (geometry.media_width[number], geometry.media_height[number])
    assert image.size == ((32, 48) if name == "turned" else (48, 32))
    pixels = np.asarray(image).astype(int)
    np.testing.assert_allclose(pixels[-4, -4], corner, atol=6)
    if red is not None:
        np.testing.assert_allclose(pixels[red[1], red[0]], media.RED, atol=12)


def test_a_bomb_is_refused_by_its_header(pictures):
    _, ledger = pictures
    assert [(line["row"], line["reason"]) for line in ledger] == [(len(PICTURES), "bad_image_size")]


UNEVEN = (0, 100, 150, 1000, 1900, 2000)
CLIPS = {
    "plain": media.clip(1),
    "turned": media.clip(2, turn=90),
    "uneven": media.clip(3, frames=6, times_ms=UNEVEN),
    "sound only": media.sound_only(),
    "ends early": media.ends_early(),
    "picture": media.picture(1),
    "empty": b"",
}


@pytest.fixture(scope="module")
def clips(tmp_path_factory, tokenizer):
    """All clips prepared: manifest and ledger."""
    root = tmp_path_factory.mktemp("clips") / "data"
    raw = root / "raw" / "owner__clips" / "set"
    raw.mkdir(parents=True)
    turns = [{"from": "human", "value": "<video>\nq"}, {"from": "gpt", "value": "a"}]
    rows = [{"id": name, "image": f"{name}.mp4", "conversations": turns} for name in CLIPS]
    (raw / "set.json").write_text(json.dumps(rows))
    with tarfile.open(raw / "set_1.tar", "w") as archive:
        for name, content in CLIPS.items():
            member = tarfile.TarInfo(f"{name}.mp4")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    out = root / "prepared" / "clips"
    prepare_source(Vista(source="clips", licence="none"), raw.parent, out, tokenizer)
    ledger = (out / "ledger.jsonl").read_text().splitlines()
    return Manifest.open(out), [json.loads(line) for line in ledger]


def test_clips_are_kept_with_true_sizes_and_times(clips):
    manifest, _ = clips
    ids = [manifest.sample_id(number) for number in range(len(manifest))]
    assert ids == ["clips/set/plain", "clips/set/turned", "clips/set/uneven"]
    geometry = manifest.geometry
    sizes = list(zip(geometry.media_width.tolist(), geometry.media_height.tolist(), strict=True))
    assert sizes == [(48, 32), (32, 48), (48, 32)]
    assert geometry.media_frames.tolist() == [8, 8, 6]
    assert geometry.media_duration[:2].tolist() == pytest.approx([1, 1])
    # The last frame is shown for a while after two seconds.
    assert 2 < geometry.media_duration[2] < 2.5


def test_a_turned_clip_is_red_where_it_should_be(clips):
    manifest, _ = clips
    content = MediaStore(manifest.data_root).read(manifest.row(1).media[0])
    tile = read_video(content, 32, VideoSettings()).tiles[0].astype(int)
    # A quarter turn counter-clockwise brings the upper left corner to the lower left.
    assert tile[0, -4, 4] - tile[1, -4, 4] > 100
    assert abs(tile[0, 4, 4] - tile[1, 4, 4]) < 30


def test_uneven_frames_keep_their_times(clips):
    manifest, _ = clips
    content = MediaStore(manifest.data_root).read(manifest.row(2).media[0])
    found = read_video(content, 32, VideoSettings(fps=100, backend="pyav"))
    np.testing.assert_allclose(found.timestamps, np.array(UNEVEN) / 1000, atol=0.002)


def test_clips_without_picture_or_end_are_refused_with_their_reason(clips):
    _, ledger = clips
    rows = {line["sample_id"]: line["reason"] for line in ledger if line["row"] is not None}
    assert rows == {
        "clips/set/sound only": "corrupt_media",
        "clips/set/ends early": "corrupt_media",
        "clips/set/picture": "unsupported_media",
        "clips/set/empty": "corrupt_media",
    }
