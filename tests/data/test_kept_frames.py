"""Kept frames: what a later run samples of them is what it would sample of the clip."""

import io

import numpy as np
import pytest
from PIL import Image

from smolvlm2.data.kept_frames import FrameSettings, decode_clip
from smolvlm2.data.shards import ShardWriter
from smolvlm2.errors import ConfigError, MediaError
from smolvlm2.processing.video import (
    FrameSequence,
    VideoSettings,
    count_frames,
    probe_video,
    read_video,
    sample_frames,
)


@pytest.mark.parametrize("fps", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("max_frames", [4, 64])
@pytest.mark.parametrize(
    ("frames", "rate"), [(1, 8), (4, 8), (37, 8), (120, 10), (240, 2), (390, 3)]
)
def test_sampling_kept_frames_gives_all_of_them(clip, fps, max_frames, frames, rate):
    data = clip(frames, rate, size=(16, 16))
    kept = decode_clip(data, FrameSettings(fps=fps, max_frames=max_frames))
    sequence = FrameSequence(kept.frames, kept.times, kept.duration)
    settings = VideoSettings(fps=fps, max_frames=max_frames, backend="pyav")
    direct, again = read_video(data, 16, settings), read_video(sequence, 16, settings)
    assert again.timestamps.tolist() == direct.timestamps.tolist() == kept.times
    assert again.duration == pytest.approx(direct.duration)
    assert np.abs(again.tiles.astype(int) - direct.tiles).max() < 12


@pytest.mark.parametrize("fps", [0.25, 0.7, 1.0, 2.0, 5.0])
@pytest.mark.parametrize("max_frames", [1, 8, 64])
def test_the_counts_of_kept_frames_hold_for_clips_of_any_length(fps, max_frames):
    settings = VideoSettings(fps=fps, max_frames=max_frames)
    for duration in np.linspace(0.04, 700, 900):
        total = max(int(duration * 25), 1)
        count = len(sample_frames(total, total / duration, duration, settings))
        assert len(sample_frames(count, count / duration, duration, settings)) == count
        assert count_frames([count], [count / duration], [duration], settings)[0] == count


def test_frames_are_never_enlarged_and_large_ones_shrink(clip):
    data = clip(3, 3, size=(64, 96))
    for size, expected in ((512, (96, 64)), (48, (48, 32))):
        kept = decode_clip(data, FrameSettings(fps=3, size=size))
        assert (kept.width, kept.height) == expected
        assert [Image.open(io.BytesIO(frame)).size for frame in kept.frames] == [expected] * 3


def test_the_facts_are_those_of_the_clip_as_it_is_read_back(clip, tmp_path):
    kept = decode_clip(clip(40, 8), FrameSettings(max_frames=3))
    with ShardWriter(tmp_path, "part") as shards:
        facts = kept.store("0", shards, "prefix", "digest")
    info = probe_video(FrameSequence(kept.frames, kept.times, kept.duration))
    assert (facts.duration, facts.fps, facts.frames) == (info.duration, info.fps, info.num_frames)
    assert (facts.width, facts.height) == (info.width, info.height) == (48, 32)
    assert [frame.time for frame in facts.locator.frames] == kept.times


def test_a_clip_whose_wanted_frame_is_damaged_is_refused(clip):
    data = bytearray(clip(80, 8))
    start = data.index(b"mdat")
    data[start + 1500 : start + 1800] = bytes(300)
    with pytest.raises(MediaError) as caught:
        decode_clip(bytes(data), FrameSettings(fps=8, max_frames=80))
    assert caught.value.reason == "corrupt_media"


@pytest.mark.parametrize("wrong", [{"fps": 0}, {"max_frames": 0}, {"size": 8}, {"quality": 100}])
def test_settings_without_sense_are_refused(wrong):
    with pytest.raises(ConfigError, match=r"frames: fps .* expected positive numbers"):
        FrameSettings(**wrong)
