"""``prepare --frames``: the frames that training will want of a clip, decoded once."""

import io
from dataclasses import dataclass
from typing import Any

from PIL import Image

from smolvlm2.data.media import Frame, MediaLocator
from smolvlm2.data.media_facts import MediaFacts
from smolvlm2.data.shards import ShardWriter
from smolvlm2.errors import ConfigError
from smolvlm2.processing.video import VideoSettings, sample_frames
from smolvlm2.processing.video_decoding import Deadline, decode_frames
from smolvlm2.processing.video_index import index_video

TIMEOUT_S = 600.0
"""A clip is given up after this many seconds: far above what a loaded machine needs, so that the
result does not depend on it."""


@dataclass(frozen=True, kw_only=True)
class FrameSettings:
    """Which frames are kept of a clip, and how."""

    fps: float = 1.0
    """Frames a second, as in ``VideoSettings``."""
    max_frames: int = 64
    """Most frames of a clip, as in ``VideoSettings``."""
    size: int = 512
    """Longest edge of a kept frame, in pixels; smaller frames stay as they are."""
    quality: int = 90
    """Of the JPEG, 1 to 95."""

    def __post_init__(self) -> None:
        if self.fps <= 0 or self.max_frames < 1 or self.size < 16 or not 1 <= self.quality <= 95:
            raise ConfigError(
                f"frames: fps {self.fps}, max_frames {self.max_frames}, size {self.size} and "
                f"quality {self.quality}; expected positive numbers, a size of at least 16 pixels "
                "and a quality of 1 to 95"
            )


@dataclass(frozen=True, kw_only=True)
class KeptClip:
    """A clip as JPEG files."""

    frames: list[bytes]
    times: list[float]
    """Seconds from the clip's start, one a frame."""
    width: int
    """Of the frames, in pixels."""
    height: int
    """Of the frames, in pixels."""
    duration: float
    """Of the whole clip, in seconds."""

    def store(self, name: str, shards: ShardWriter, prefix: str, digest: str) -> MediaFacts:
        """Write the frames to a shard.

        Args:
            name: Start of the members' names.
            shards: Where to.
            prefix: Folder of the shards, relative to the data root.
            digest: Of the clip's file.

        Returns:
            Facts whose frame count and rate are those of the kept frames, so that lengths computed
            from them are those of the clip as it is read back.
        """
        places = []
        for number, (frame, time) in enumerate(zip(self.frames, self.times, strict=True)):
            shard, offset = shards.add(f"{name}-{number:04d}.jpg", frame)
            places.append(Frame(f"{prefix}/{shard}", offset, len(frame), time))
        return MediaFacts(
            locator=MediaLocator("video", frames=tuple(places), duration=self.duration),
            digest=digest,
            width=self.width,
            height=self.height,
            duration=self.duration,
            fps=len(places) / self.duration,
            frames=len(places),
        )


def decode_clip(source: Any, settings: FrameSettings) -> KeptClip:
    """Decode what ``sample_frames`` chooses of a clip.

    Args:
        source: The file as bytes, or a ``RangeFile``.
        settings: Which frames, and how they are kept.

    Raises:
        MediaError: ``corrupt_media``: no video, or a wanted frame does not decode.
    """
    deadline = Deadline.of(source, TIMEOUT_S)
    wanted = VideoSettings(fps=settings.fps, max_frames=settings.max_frames)
    index = index_video(source)
    info = index.info
    chosen = sample_frames(info.num_frames, info.fps, info.duration, wanted)
    frames = []
    size = (0, 0)
    # One decoder everywhere: every task of an array must give the same bytes.
    for picture in decode_frames(source, index, chosen, "pyav", deadline):
        picture = _shrink(picture, settings.size)
        buffer = io.BytesIO()
        picture.save(buffer, "JPEG", quality=settings.quality)
        frames.append(buffer.getvalue())
        size = picture.size
    return KeptClip(
        frames=frames,
        times=[index.seconds(number) for number in chosen.tolist()],
        width=size[0],
        height=size[1],
        duration=info.duration,
    )


def _shrink(picture: Image.Image, longest: int) -> Image.Image:
    """Bring the longest edge down to ``longest`` pixels; never up."""
    scale = longest / max(picture.size)
    if scale >= 1:
        return picture
    width, height = (max(1, round(side * scale)) for side in picture.size)
    return picture.resize((width, height), Image.Resampling.LANCZOS)
