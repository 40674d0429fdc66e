"""Clips to tiles: the names that other rooms use, and reading a clip from start to end."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image

from smolvlm2.errors import MediaError
from smolvlm2.processing.image_reading import ImageSource, image_size, open_image
from smolvlm2.processing.images import ImageSettings, image_tiles, tile_room
from smolvlm2.processing.resampling import fast_frame
from smolvlm2.processing.tiling import resize_plan
from smolvlm2.processing.video_decoding import Deadline, decode_frames
from smolvlm2.processing.video_index import VideoFile, VideoInfo, index_video
from smolvlm2.processing.video_sampling import VideoSettings, count_frames, sample_frames

__all__ = [
    "FrameSequence",
    "VideoClip",
    "VideoInfo",
    "VideoSettings",
    "count_frames",
    "probe_video",
    "read_video",
    "sample_frames",
]
FRAME_LIST = "frames.json"
"""In a folder of frames: ``{"duration": s, "frames": [{"file": name, "time": s}, ...]}``."""


@dataclass(frozen=True)
class FrameSequence:
    """A clip that was decoded before: images with their times, as ``prepare --frames`` keeps it."""

    frames: Sequence[ImageSource]
    """Images in order: bytes, paths or PIL images."""
    timestamps: Sequence[float]
    """Seconds from the clip's start, one a frame."""
    duration: float
    """Length of the whole clip, in seconds."""

    def __post_init__(self) -> None:
        if not self.frames or len(self.frames) != len(self.timestamps) or self.duration <= 0:
            raise MediaError(
                f"frame sequence has {len(self.frames)} frames, {len(self.timestamps)} timestamps "
                f"and a duration of {self.duration} s; expected one timestamp a frame, and some"
            )

    @classmethod
    def from_folder(cls, folder: str | Path) -> "FrameSequence":
        """Read a folder of frame images described by ``frames.json``.

        Raises:
            MediaError: The list is missing or incomplete.
        """
        path = Path(folder) / FRAME_LIST
        try:
            listed = json.loads(path.read_text(encoding="utf-8"))
            frames = [Path(folder) / entry["file"] for entry in listed["frames"]]
            times = [float(entry["time"]) for entry in listed["frames"]]
            duration = float(listed["duration"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise MediaError(
                f"{path}: not a list of frames ({error!r}); expected 'duration' and 'frames' with "
                f"'file' and 'time'"
            ) from error
        return cls(frames, times, duration)


VideoSource = VideoFile | FrameSequence


@dataclass(frozen=True)
class VideoClip:
    """Frames of a clip as the model sees them."""

    tiles: np.ndarray
    """uint8 ``(n, 3, S, S)``."""
    timestamps: np.ndarray
    """Seconds from the clip's start, float64 ``(n,)``."""
    duration: float
    """Length of the clip, in seconds."""


def probe_video(source: VideoSource) -> VideoInfo:
    """Size, duration, rate and frame count of a clip: the frame count is counted, not believed.

    Args:
        source: The file's bytes, its path, an open file (a ``RangeFile`` for a clip inside a
            shard), a folder of frames, or a ``FrameSequence``.

    Raises:
        MediaNotFoundError: No such file.
        MediaError: ``corrupt_media``: no video stream, zero length, cut off, undecodable.
    """
    source = _as_sequence(source)
    if not isinstance(source, FrameSequence):
        return index_video(source).info
    first = source.frames[0]
    width, height = first.size if isinstance(first, Image.Image) else image_size(first)
    return VideoInfo(width, height, source.duration, _rate(source), len(source.frames))


def read_video(
    source: VideoSource,
    tile_size: int,
    settings: VideoSettings,
    max_frames: int | None = None,
    *,
    resample: Literal["exact", "fast"] = "exact",
    out: np.ndarray | None = None,
) -> VideoClip:
    """Decode the frames that ``sample_frames`` chooses, one tile each.

    Args:
        source: As in ``probe_video``.
        tile_size: Side S of a tile, in pixels.
        settings: Which frames, by which decoder.
        max_frames: Overrides the setting for this clip.
        resample: As in ``ImageSettings``.
        out: uint8 ``(n, 3, S, S)`` whose first entries the tiles are written to; not used where it
            has fewer than there are frames.

    Returns:
        Tiles with their true times. Each frame's longest edge goes to S, then it is squashed to
        S x S (Lanczos, both): the released recipe. ``exact`` are PIL's pixels, ``fast`` torch's,
        within 2/255 of them.

    Raises:
        MediaNotFoundError: No such file.
        MediaError: ``corrupt_media``: as ``probe_video``, a wanted frame does not decode, or the
            clip takes longer than ``settings.timeout_s``.
    """
    deadline = Deadline.of(source, settings.timeout_s)
    source = _as_sequence(source)
    if isinstance(source, FrameSequence):
        info = VideoInfo(0, 0, source.duration, _rate(source), len(source.frames))
        chosen = _choose(info, settings, max_frames)
        times = np.asarray(source.timestamps, dtype=np.float64)[chosen]
        pictures: Iterator[Image.Image] = (open_image(source.frames[i]) for i in chosen.tolist())
    else:
        index = index_video(source)
        info = index.info
        chosen = _choose(info, settings, max_frames)
        times = np.array([index.seconds(i) for i in chosen.tolist()])
        pictures = decode_frames(source, index, chosen, settings.backend, deadline)
    tiles = tile_room(len(chosen), tile_size, out)
    whole = ImageSettings(longest_edge=tile_size, split=False)
    for number, picture in enumerate(pictures):
        _fill_tile(tiles[number], picture, whole, resample)
        deadline.check()
    return VideoClip(tiles, times, info.duration)


def _fill_tile(tile: np.ndarray, picture: Image.Image, whole: ImageSettings, resample: str) -> None:
    size = tile.shape[-1]
    if resample == "exact":
        image_tiles(picture, size, whole, out=tile[None])
        return
    plan = resize_plan(picture.width, picture.height, size, whole)
    scaled = (int(plan.scaled_width), int(plan.scaled_height))
    for channel, plane in enumerate(fast_frame(picture, scaled, size)):
        tile[channel] = plane


def _choose(info: VideoInfo, settings: VideoSettings, max_frames: int | None) -> np.ndarray:
    return sample_frames(info.num_frames, info.fps, info.duration, settings, max_frames)


def _as_sequence(source: VideoSource) -> VideoSource:
    if isinstance(source, str | Path) and Path(source).is_dir():
        return FrameSequence.from_folder(source)
    return source


def _rate(source: FrameSequence) -> float:
    return len(source.frames) / source.duration
