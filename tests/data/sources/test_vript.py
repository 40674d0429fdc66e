"""Vript: a clip is a sample; what has no caption is refused alone."""

import pytest

from smolvlm2.data.ledger import LeftOutError
from smolvlm2.data.sources.prompts import VRIPT
from smolvlm2.data.sources.vript import Vript

VRIPT_SET = Vript(source="vript", licence="none")
LONG = "vript_captions/vript_long_videos_captions.zip/abc_caption.json"
SHORT = "vript_captions/vript_short_videos_captions.zip/abc_caption.json"


def clip(content, **fields):
    caption = {"shot_type": "Wide", "content": content, "scene_title": "t"}
    return {"clip_id": "x", "caption": caption, "voiceover": ["speech"]} | fields


def video(**clips):
    data = {f"abc-Scene-{name[1:]}": value for name, value in clips.items()}
    return {"meta": {"video_id": "abc", "integrity": False, "num_clips": 9}, "data": data}


@pytest.mark.parametrize(("file", "part"), [(LONG, "long"), (SHORT, "short")])
def test_every_clip_is_a_sample(file, part):
    first, second = VRIPT_SET.records(video(s001=clip("one"), s004=clip("two")), file)
    assert (first.native_id, second.native_id) == (f"{part}/abc-Scene-001", f"{part}/abc-Scene-004")
    assert first.subset == part
    (medium,) = second.media
    assert medium.kind == "video"
    assert medium.paths[0] == f"vript_{part}_videos_clips/abc/abc-Scene-004.mp4"


def test_only_the_content_is_learned():
    (record,) = VRIPT_SET.records(video(s001=clip("A man waters plants.")), LONG)
    assert record.turns == [("user", VRIPT[0]), ("assistant", "A man waters plants.")]


@pytest.mark.parametrize("entry", [None, {}, clip(""), clip(None), clip("  "), {"caption": None}])
def test_a_clip_without_caption_is_refused_alone(entry):
    problem, record = VRIPT_SET.records(video(s001=entry, s002=clip("good")), LONG)
    assert isinstance(problem, LeftOutError)
    assert problem.reason == "no_caption"
    assert "abc-Scene-001" in problem.detail
    assert record.native_id == "long/abc-Scene-002"


@pytest.mark.parametrize("entry", ["text", {"caption": "text"}, clip(7)])
def test_a_clip_of_another_shape_is_unreadable_alone(entry):
    problem, record = VRIPT_SET.records(video(s001=entry, s002=clip("good")), LONG)
    assert problem.reason == "unreadable_record"
    assert record.native_id == "long/abc-Scene-002"


@pytest.mark.parametrize("row", [{}, {"data": {}}, {"meta": None, "data": None}])
def test_a_video_without_clips_is_refused_as_a_whole(row):
    with pytest.raises(LeftOutError, match="no_caption: no clip of 'abc' has a caption"):
        list(VRIPT_SET.records(row, LONG))


def test_a_video_without_meta_is_named_by_its_file():
    (record,) = VRIPT_SET.records({"data": {"abc-Scene-001": clip("c")}}, LONG)
    assert record.media[0].paths[1] == "abc/abc-Scene-001.mp4"


def test_zips_of_captions_are_preferred_to_what_they_were_unpacked_to(tmp_path):
    for part in ("long", "short"):
        (tmp_path / "vript_captions" / f"vript_{part}_videos_captions").mkdir(parents=True)
    (tmp_path / "vript_captions" / "vript_long_videos_captions.zip").write_bytes(b"")
    names = [path.name for path in VRIPT_SET.record_files(tmp_path)]
    assert names == ["vript_long_videos_captions.zip", "vript_short_videos_captions"]


def test_whole_videos_are_not_mapped(tmp_path):
    for name in ("vript_long_videos/video_1_of_1095.zip",
                 "vript_long_videos_clips/clips_1_of_1095.zip",
                 "vript_short_videos_clips/shorts_clips_1_of_42.zip"):  # fmt: skip
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    names = [path.name for path in VRIPT_SET.archives(tmp_path)]
    assert names == ["clips_1_of_1095.zip", "shorts_clips_1_of_42.zip"]
