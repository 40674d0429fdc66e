import io
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image

from smolvlm2.errors import MediaError, MediaNotFoundError, MissingDependencyError
from smolvlm2.processing import video_decoding
from smolvlm2.processing.images import ImageSettings, image_tiles
from smolvlm2.processing.video import (
    FrameSequence,
    VideoSettings,
    count_frames,
    probe_video,
    read_video,
    sample_frames,
)

Encode = Callable[..., bytes]
PYAV = VideoSettings(backend="pyav")


def _numbers(tiles: np.ndarray) -> list[int]:
    """Frame numbers, read back from the grey of the lower right corner."""
    return [round(float(tile[:, -8:, -8:].mean()) / 4) for tile in tiles]


def test_probe_tells_what_the_file_holds(encode_video: Encode, tmp_path: Path):
    content = encode_video(30, 10)
    (tmp_path / "clip.bin").write_bytes(content)
    for source in (content, tmp_path / "clip.bin", str(tmp_path / "clip.bin")):
        info = probe_video(source)
        assert (info.width, info.height, info.num_frames) == (64, 48, 30)
        assert info.duration == pytest.approx(3.0)
        assert info.fps == pytest.approx(10.0)


@pytest.mark.parametrize("kind", ["mp4", "matroska", "avi", "mpegts"])
@pytest.mark.parametrize("fps", [1.0, 0.4, 5.0, 100.0])
def test_the_chosen_frames_are_read_with_their_times(encode_video: Encode, kind: str, fps: float):
    content = encode_video(40, 10, kind=kind)
    settings = VideoSettings(fps=fps, backend="pyav")
    info = probe_video(content)
    wanted = sample_frames(info.num_frames, info.fps, info.duration, settings)
    clip = read_video(content, 32, settings)
    assert _numbers(clip.tiles) == wanted.tolist()
    np.testing.assert_allclose(clip.timestamps, wanted / 10, atol=0.02)
    assert clip.tiles.shape == (len(wanted), 3, 32, 32)
    assert clip.tiles.dtype == np.uint8
    assert clip.duration == info.duration
    counted = count_frames(info.num_frames, info.fps, info.duration, settings)
    assert counted.tolist() == [len(clip.tiles)]


def test_frame_cap_holds(encode_video: Encode):
    content = encode_video(60, 10)
    assert len(read_video(content, 32, VideoSettings(max_frames=4)).tiles) == 4
    assert len(read_video(content, 32, VideoSettings(), max_frames=2).tiles) == 2


def test_distant_frames_are_sought_not_decoded(encode_video: Encode, monkeypatch):
    content = encode_video(120, 10, gop=10)
    seen = []
    advance = video_decoding._advance

    def spy(frames: Any, target: int, deadline: Any) -> Any:
        return advance((seen.append(1) or frame for frame in frames), target, deadline)

    monkeypatch.setattr(video_decoding, "_advance", spy)
    clip = read_video(content, 32, VideoSettings(max_frames=3, backend="pyav"))
    # Above 60, the grey of the test frames is saturated.
    assert len(clip.tiles) == 3
    assert len(seen) < 50


def test_pixels_are_resized_then_squashed(encode_video: Encode):
    content = encode_video(5, 10, width=64, height=40)
    clip = read_video(content, 32, PYAV)
    with av.open(io.BytesIO(content)) as container:
        frame = next(container.decode(video=0)).to_image()
    resized = frame.resize((32, 20), Image.Resampling.LANCZOS)
    squashed = resized.resize((32, 32), Image.Resampling.LANCZOS)
    np.testing.assert_array_equal(clip.tiles[0], np.asarray(squashed).transpose(2, 0, 1))


@pytest.mark.parametrize(
    ("turn", "corner"), [(0, (0, 0)), (90, (1, 0)), (180, (1, 1)), (-90, (0, 1))]
)
def test_rotated_clips_come_upright(encode_video: Encode, turn: int, corner: tuple[int, int]):
    content = encode_video(6, 10, turn=turn)
    info = probe_video(content)
    assert (info.width, info.height) == ((48, 64) if turn in (90, -90) else (64, 48))
    tile = read_video(content, 32, VideoSettings()).tiles[0].astype(int)
    reds = {
        (row, col): tile[0, row * 28 + 2, col * 28 + 2] - tile[1, row * 28 + 2, col * 28 + 2]
        for row in (0, 1)
        for col in (0, 1)
    }
    assert max(reds, key=reds.__getitem__) == corner
    assert reds[corner] > 150


def test_variable_rate_has_true_times(encode_video: Encode):
    times = [0, 100, 150, 400, 1000, 1050, 2000, 2500, 2600, 3900]
    content = encode_video(10, 10, times_ms=times)
    settings = VideoSettings(fps=100, backend="pyav")
    clip = read_video(content, 32, settings)
    assert _numbers(clip.tiles) == list(range(10))
    np.testing.assert_allclose(clip.timestamps, np.array(times) / 1000, atol=0.002)
    info = probe_video(content)
    assert info.num_frames == 10
    assert count_frames(10, info.fps, info.duration, settings).tolist() == [10]


def test_variable_rate_without_reordering_has_true_times(encode_video: Encode):
    # In groups of two frames nothing is reordered, though the stream's header allows for it.
    times = [0, 100, 150, 1000, 1900, 2000]
    content = encode_video(6, 8, times_ms=times, gop=2)
    clip = read_video(content, 32, VideoSettings(fps=100, backend="pyav"))
    np.testing.assert_allclose(clip.timestamps, np.array(times) / 1000, atol=0.002)


def test_truncated_files_are_corrupt(encode_video: Encode, tmp_path: Path):
    whole = encode_video(60, 10, faststart=tmp_path / "whole.mp4")
    assert probe_video(whole).num_frames == 60
    path = tmp_path / "cut.mp4"
    path.write_bytes(whole[: len(whole) * 6 // 10])
    for read in (probe_video, lambda source: read_video(source, 32, VideoSettings())):
        with pytest.raises(MediaError, match=r"cut\.mp4: cut off: \d+ of 60 frames") as caught:
            read(path)
        assert caught.value.reason == "corrupt_media"
    without_index = encode_video(30, 10)
    with pytest.raises(MediaError, match="not a readable video"):
        probe_video(without_index[: len(without_index) // 2])


def test_damaged_frames_are_corrupt(encode_video: Encode, tmp_path: Path):
    content = bytearray(encode_video(60, 10, faststart=tmp_path / "whole.mp4"))
    start = content.index(b"mdat") + 8
    content[start + 40 : -40] = bytes(len(content) - 80 - start)
    with pytest.raises(MediaError, match=r"decode|damaged") as caught:
        read_video(bytes(content), 32, PYAV)
    assert caught.value.reason == "corrupt_media"


def test_no_video_at_all(tmp_path: Path):
    sound = io.BytesIO()
    with av.open(sound, "w", format="wav") as container:
        stream = container.add_stream("pcm_s16le", rate=8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 800), dtype=np.int16), layout="mono")
        frame.sample_rate = 8000
        container.mux(stream.encode(frame))
    with pytest.raises(MediaError, match="has no video stream"):
        probe_video(sound.getvalue())
    with pytest.raises(MediaError, match="not a readable video"):
        probe_video(b"not a video")
    with pytest.raises(MediaNotFoundError, match=r"none\.mp4: no such video file"):
        probe_video(tmp_path / "none.mp4")
    with pytest.raises(MediaError, match="video given as int; expected bytes"):
        probe_video(12)  # type: ignore[arg-type]


def test_video_without_frames_has_zero_length():
    empty = io.BytesIO()
    with av.open(empty, "w", format="avi") as container:
        stream = container.add_stream("libx264", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        container.start_encoding()
    with pytest.raises(MediaError, match="video of zero length"):
        probe_video(empty.getvalue())


def test_slow_clips_are_given_up(encode_video: Encode, monkeypatch: pytest.MonkeyPatch):
    content = encode_video(20, 10)
    clock = iter(range(0, 10_000, 10))
    monkeypatch.setattr(time, "monotonic", lambda: next(clock))
    with pytest.raises(MediaError, match=r"more than video\.timeout_s 30"):
        read_video(content, 32, VideoSettings(timeout_s=30, backend="pyav"))


def test_frames_decoded_before_are_a_clip(tmp_path: Path):
    frames = [Image.new("RGB", (40, 30), (10 * n, 0, 0)) for n in range(5)]
    times = [0.0, 1.5, 3.0, 4.5, 9.0]
    clip = read_video(FrameSequence(frames, times, 10.0), 32, VideoSettings())
    assert clip.timestamps.tolist() == times
    assert clip.duration == 10.0
    whole = ImageSettings(longest_edge=32, split=False)
    np.testing.assert_array_equal(clip.tiles[3], image_tiles(frames[3], 32, whole)[0][0])
    for number, frame in enumerate(frames):
        frame.save(tmp_path / f"{number}.png")
    entries = [{"file": f"{n}.png", "time": seconds} for n, seconds in enumerate(times)]
    listed = {"duration": 10.0, "frames": entries}
    (tmp_path / "frames.json").write_text(json.dumps(listed))
    folder = read_video(tmp_path, 32, VideoSettings())
    np.testing.assert_array_equal(folder.tiles, clip.tiles)
    info = probe_video(tmp_path)
    assert (info.width, info.height, info.num_frames, info.duration) == (40, 30, 5, 10.0)
    assert probe_video(FrameSequence(frames, times, 10.0)).width == 40
    few = read_video(tmp_path, 32, VideoSettings(), max_frames=2)
    assert few.timestamps.tolist() == [0.0, 9.0]


def test_frame_lists_without_sense_are_rejected(tmp_path: Path):
    with pytest.raises(MediaError, match="not a list of frames"):
        read_video(tmp_path, 32, VideoSettings())
    with pytest.raises(MediaError, match="1 frames, 0 timestamps"):
        FrameSequence([b""], [], 1.0)


def test_a_decoder_that_is_missing_is_named(encode_video: Encode, monkeypatch):
    def refuse(name: str) -> None:
        raise OSError(f"{name} does not fit")

    content = encode_video(5)
    video_decoding.choose_backend.cache_clear()
    with monkeypatch.context() as patch:
        patch.setattr(video_decoding.importlib, "import_module", refuse)
        with pytest.raises(
            MissingDependencyError, match=r"decord does not fit.*pip install decord"
        ):
            read_video(content, 32, VideoSettings(backend="decord"))
    video_decoding.choose_backend.cache_clear()


def test_a_decoder_that_does_not_load_is_passed_over(monkeypatch: pytest.MonkeyPatch):
    def refuse(name: str) -> None:
        if name != "av":
            raise RuntimeError("no FFmpeg")

    video_decoding.choose_backend.cache_clear()
    with monkeypatch.context() as patch:
        patch.setattr(video_decoding.importlib, "import_module", refuse)
        assert video_decoding.choose_backend("auto") == "pyav"
    video_decoding.choose_backend.cache_clear()


def test_the_choice_of_decoder_is_logged_once(caplog: pytest.LogCaptureFixture):
    video_decoding.choose_backend.cache_clear()
    with caplog.at_level("INFO"):
        names = {video_decoding.choose_backend("auto") for _ in range(3)}
    assert len(names) == 1
    assert caplog.text.count("videos are decoded by") == 1


@pytest.mark.parametrize("backend", ["torchcodec", "decord"])
def test_other_decoders_give_the_same_frames(encode_video: Encode, backend: str):
    pytest.importorskip(backend, exc_type=(ImportError, OSError))
    content = encode_video(40, 10)
    theirs = read_video(content, 32, VideoSettings(backend=backend))
    ours = read_video(content, 32, PYAV)
    assert theirs.timestamps.tolist() == ours.timestamps.tolist()
    assert _numbers(theirs.tiles) == _numbers(ours.tiles)
    assert np.abs(theirs.tiles.astype(int) - ours.tiles).max() <= 4
