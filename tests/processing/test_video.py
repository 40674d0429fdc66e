import io
import json
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest
from av.video.frame import PictureType
from PIL import Image

from smolvlm2.errors import MediaError, MediaNotFoundError, MissingDependencyError
from smolvlm2.processing import video_decoding, video_packets
from smolvlm2.processing.images import ImageSettings, image_tiles
from smolvlm2.processing.range_file import RangeFile
from smolvlm2.processing.video import (
    FrameSequence,
    VideoSettings,
    count_frames,
    probe_video,
    read_video,
    sample_frames,
)
from smolvlm2.processing.video_index import index_video, name_of
from smolvlm2.processing.video_packets import Packets, needed_runs, worth_a_seek

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


SETTINGS = [
    VideoSettings(fps=fps, max_frames=cap, backend="pyav")
    for fps, cap in ((1, 64), (7, 64), (1, 3))
]


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
@pytest.mark.parametrize("options", [{}, {"open_gop": True}, {"b_frames": 0}, {"gop": 1}], ids=str)
@pytest.mark.parametrize("seek_bytes", [0, 2**40])
@pytest.mark.parametrize("kind", ["mp4", "matroska", "mpegts"])
def test_what_is_left_out_leaves_no_trace(
    encode_video: Encode, monkeypatch, settings: VideoSettings, options, seek_bytes: int, kind: str
):
    monkeypatch.setattr(video_packets, "SEEK_BYTES", seek_bytes)
    if not (kind == "mpegts" and seek_bytes == 0):  # whose seeks land behind the key frame
        monkeypatch.setattr(video_decoding, "_counted", None)
    content = encode_video(60, 10, kind=kind, **{"gop": 25, "moving": True} | options)
    index = index_video(content)
    wanted = sample_frames(index.info.num_frames, index.info.fps, index.info.duration, settings)
    with av.open(io.BytesIO(content)) as container:
        shown = sorted(container.decode(video=0), key=lambda frame: frame.pts)
    unreferenced = sum(frame.pict_type == PictureType.B for frame in shown)
    assert (unreferenced > 10) == (options.get("b_frames") != 0 and options.get("gop") != 1)
    found = [
        np.asarray(frame)
        for frame in video_decoding.decode_frames(
            content, index, wanted, "pyav", video_decoding.Deadline.of(content, 60)
        )
    ]
    assert len(found) == len(wanted)
    for number, frame in zip(wanted.tolist(), found, strict=True):
        np.testing.assert_array_equal(frame, shown[number].to_ndarray(format="rgb24"))


def test_distant_frames_cost_few_packets(encode_video: Encode):
    index = index_video(encode_video(120, 10, gop=10))
    runs = needed_runs(index.packets, index.pts[[5, 60, 115]])
    assert len(runs) == 3
    assert sum(stop - start for start, stop in runs) < 30
    # A run ends with the frame wanted; wanting all of them needs all packets, in one run.
    assert needed_runs(index.packets, index.pts) == [(0, 120)]
    assert needed_runs(index.packets, index.pts[[0]]) == [(0, 1)]


def test_a_picture_shown_before_its_key_frame_needs_the_key_frame_before():
    packets = Packets(
        pts=np.array([0, 2, 1, 6, 4, 5, 8, 7]),
        key=np.array([1, 0, 0, 1, 0, 0, 0, 0], dtype=bool),
        size=np.full(8, 600),
    )
    assert needed_runs(packets, np.array([5])) == [(0, 6)]
    assert needed_runs(packets, np.array([7])) == [(3, 8)]
    assert needed_runs(packets, np.array([1, 6])) == [(0, 4)]
    assert needed_runs(packets, np.array([0, 6])) == [(0, 1), (3, 4)]
    assert packets.place(4) == 4
    assert packets.place(3) == packets.place(None) == -1
    assert not worth_a_seek(packets, 0, 8)
    large = replace(packets, size=packets.size * 2**10)
    assert worth_a_seek(large, 1, 3)
    assert not worth_a_seek(replace(large, pts=np.zeros(8)), 1, 3)


def test_a_clip_inside_a_shard_is_read_where_it_lies(encode_video: Encode, tmp_path: Path):
    content = encode_video(40, 10)
    (tmp_path / "shard.tar").write_bytes(bytes(700) + content + bytes(900))
    with RangeFile(tmp_path / "shard.tar", 700, len(content)) as file:
        info, clip = probe_video(file), read_video(file, 32, PYAV)
        assert info == probe_video(content)
        np.testing.assert_array_equal(clip.tiles, read_video(content, 32, PYAV).tiles)
        assert not file.closed
        cut = RangeFile(tmp_path / "shard.tar", 700, len(content) // 2)
        with cut, pytest.raises(MediaError, match=rf"shard\.tar \(bytes 700 to {700 + cut.size}\)"):
            probe_video(cut)
    with io.BytesIO(content) as anything:
        assert len(read_video(anything, 32, PYAV).tiles) == len(clip.tiles)
        anything.seek(0)
        assert name_of(anything) == "video in an open file"


@pytest.mark.parametrize(("width", "height"), [(64, 40), (40, 64), (200, 112), (32, 32)])
def test_fast_frames_are_within_two_levels(encode_video: Encode, width: int, height: int):
    content = encode_video(6, 10, width=width, height=height)
    exact = read_video(content, 32, VideoSettings(fps=100, backend="pyav"))
    fast = read_video(content, 32, VideoSettings(fps=100, backend="pyav"), resample="fast")
    assert np.abs(fast.tiles.astype(int) - exact.tiles).max() <= 2


def test_tiles_go_where_there_is_room(encode_video: Encode):
    content = encode_video(30, 10)
    room = np.zeros((5, 3, 32, 32), dtype=np.uint8)
    clip = read_video(content, 32, PYAV, out=room[1:])
    assert np.shares_memory(clip.tiles, room)
    np.testing.assert_array_equal(room[1:4], read_video(content, 32, PYAV).tiles)
    assert not room[0].any()
    assert not room[4].any()
    assert not np.shares_memory(read_video(content, 32, PYAV, out=room[:2]).tiles, room)


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


def test_a_codec_that_nobody_knows_is_corrupt(encode_video: Encode):
    content = encode_video(4, 10)
    start = content.rindex(b"avc1")  # the first one is a brand
    unknown = content[:start] + b"zzzz" + content[start + 4 :]
    with pytest.raises(MediaError, match="a codec that FFmpeg does not know") as caught:
        probe_video(unknown)
    assert caught.value.reason == "corrupt_media"


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
