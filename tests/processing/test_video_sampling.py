import importlib
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from smolvlm2.errors import ConfigError
from smolvlm2.processing.video import VideoSettings, count_frames, sample_frames


class Metadata(dict[str, Any]):
    __getattr__ = dict.__getitem__


CLIP = (st.integers(1, 200_000), st.floats(0.5, 240), st.floats(0.01, 20_000))


@settings(deadline=None)
@given(*CLIP, st.integers(1, 128), st.sampled_from([0.25, 1.0, 2.0, 30.0]))
@example(1980, 30.0, 66.0, 64, 1.0)
@example(1981, 30.0, 66.03, 64, 1.0)
@example(3, 30.0, 0.1, 64, 30.0)
@example(2, 1.0, 500.0, 64, 1.0)
def test_frames_equal_transformers(total: int, fps: float, duration: float, most: int, rate: float):
    theirs = importlib.import_module("transformers.models.smolvlm.video_processing_smolvlm")
    # The class needs torchvision; its function does not.
    sampler = theirs.SmolVLMVideoProcessor.__dict__["sample_frames"]
    metadata = Metadata(total_num_frames=total, fps=fps, duration=duration)
    expected = sampler(None, metadata, num_frames=most, fps=rate)
    choice = VideoSettings(max_frames=most, fps=rate)
    chosen = sample_frames(total, fps, duration, choice)
    assert chosen.tolist() == expected.tolist()
    assert 1 <= len(chosen) <= most
    assert count_frames(total, fps, duration, choice).tolist() == [len(chosen)]
    assert sample_frames(total, fps, duration, VideoSettings(fps=rate), most).tolist() == (
        chosen.tolist()
    )


def test_counts_are_vectorised():
    generator = np.random.default_rng(1)
    durations, rates = generator.uniform(0.1, 900, 300), generator.uniform(1, 60, 300)
    totals = np.maximum((durations * rates).astype(int), 1)
    settings = VideoSettings(max_frames=40)
    each = [
        len(sample_frames(*clip, settings)) for clip in zip(totals, rates, durations, strict=True)
    ]
    assert count_frames(totals, rates, durations, settings).tolist() == each


@pytest.mark.parametrize(
    ("wrong", "match"),
    [
        ({"backend": "vlc"}, "video.backend is 'vlc'; expected one of auto, torchcodec"),
        ({"max_frames": 0}, "video.max_frames 0"),
        ({"fps": 0}, "fps 0"),
        ({"timeout_s": 0}, "timeout_s 0 must be positive"),
    ],
)
def test_impossible_settings_are_rejected(wrong: dict[str, Any], match: str):
    with pytest.raises(ConfigError, match=match):
        VideoSettings(**wrong)
