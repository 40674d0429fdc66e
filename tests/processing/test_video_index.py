"""What the packets of odd containers say of a clip; the plain ones are in test_video.py."""

import errno
import io
from collections.abc import Callable

import av
import numpy as np
import pytest

from smolvlm2.errors import MediaError
from smolvlm2.processing import video_decoding
from smolvlm2.processing.range_file import RangeFile
from smolvlm2.processing.video import VideoSettings, probe_video, read_video

Encode = Callable[..., bytes]
PYAV = VideoSettings(backend="pyav")


@pytest.mark.parametrize(
    ("kind", "found"), [("matroska", r"[345]\.\d of 6\.0 s"), ("flv", r"only \d+ frames")]
)
def test_the_end_is_missed_where_no_header_counts_frames(encode_video: Encode, kind, found):
    whole = encode_video(60, 10, kind=kind, moving=True)
    assert probe_video(whole).num_frames == 60
    with pytest.raises(MediaError, match=f"cut off: {found} are there"):
        probe_video(whole[: len(whole) * 6 // 10])


def test_a_disk_that_fails_is_not_taken_for_a_damaged_file(encode_video: Encode, tmp_path):
    (tmp_path / "clip.mp4").write_bytes(encode_video(30, 10))
    reads = []

    class Failing(RangeFile):
        """Fails at one of its reads, which are small."""

        def readinto(self, buffer: memoryview) -> int:
            reads.append(len(buffer))
            if len(reads) == wrong:
                raise OSError(errno.EIO, "Input/output error")
            return super().readinto(memoryview(buffer)[:500])

    wrong = 0
    with Failing(tmp_path / "clip.mp4") as whole:
        assert probe_video(whole).num_frames == 30
    for wrong in range(1, len(reads) + 1):  # noqa: B007 - read by the file
        reads.clear()
        with Failing(tmp_path / "clip.mp4") as clip, pytest.raises(OSError, match="Input/output"):
            probe_video(clip)


def test_a_picture_that_ends_before_the_sound_is_whole():
    target = io.BytesIO()
    with av.open(target, "w", format="matroska") as container:
        picture, sound = (
            container.add_stream("libx264", 10),
            container.add_stream("pcm_s16le", 8000),
        )
        picture.width, picture.height, picture.pix_fmt = 64, 48, "yuv420p"
        sound.layout = "mono"
        for number in range(10):
            frame = av.VideoFrame.from_ndarray(np.zeros((48, 64, 3), np.uint8), format="rgb24")
            frame.pts = number
            container.mux(picture.encode(frame))
        container.mux(picture.encode(None))
        for number in range(30):
            silence = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), "s16", "mono")
            silence.sample_rate, silence.pts = 8000, 800 * number
            container.mux(sound.encode(silence))
        container.mux(sound.encode(None))
    content = target.getvalue()
    assert probe_video(content).duration == pytest.approx(1.0)
    with pytest.raises(MediaError, match=r"cut off: 1\.\d of 3\.0 s are there"):
        probe_video(content[: len(content) // 2])


def test_an_avi_whose_frames_stay_for_a_while_is_whole(encode_video: Encode):
    times = [100 * number + 400 * (number > 20) for number in range(40)]
    clip = encode_video(40, 10, kind="avi", times_ms=times, b_frames=0)
    found = probe_video(clip)
    assert found.num_frames == 40
    assert found.duration == pytest.approx(4.3, abs=0.3)
    assert len(read_video(clip, 32, PYAV).tiles) == 4


def test_a_clip_that_cannot_be_sought_in_is_read_from_its_start(encode_video: Encode, monkeypatch):
    assert probe_video(encode_video(40, 25, kind="h264")).num_frames == 40
    clip = encode_video(40, 10, gop=4, moving=True)
    expected = read_video(clip, 32, PYAV).tiles

    def refuse(*places: object):
        raise av.error.PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(video_decoding, "worth_a_seek", refuse)
    np.testing.assert_array_equal(read_video(clip, 32, PYAV).tiles, expected)
