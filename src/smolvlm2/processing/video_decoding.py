"""Wanted frames of a video file, one by one, by whichever decoder is installed."""

import functools
import importlib
import io
import logging
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import numpy as np
from PIL import Image

from smolvlm2.errors import MediaError, MissingDependencyError
from smolvlm2.processing.video_index import VideoFile, VideoIndex, name_of, open_video

logger = logging.getLogger(__name__)

_TURNS = {
    1: Image.Transpose.ROTATE_90,
    2: Image.Transpose.ROTATE_180,
    3: Image.Transpose.ROTATE_270,
}
_MODULES = {"torchcodec": "torchcodec.decoders", "pyav": "av", "decord": "decord"}


@dataclass(frozen=True)
class Deadline:
    """A limit of wall clock for one clip."""

    name: str
    seconds: float
    start: float

    @classmethod
    def of(cls, source: Any, seconds: float) -> "Deadline":
        """Start the clock."""
        return cls(name_of(source), seconds, time.monotonic())

    def check(self) -> None:
        """Raise MediaError (``corrupt_media``) once the time is over."""
        spent = time.monotonic() - self.start
        if spent > self.seconds:
            raise MediaError(
                f"{self.name}: decoding took {spent:.1f} s, more than video.timeout_s "
                f"{self.seconds}; skip the file or allow more"
            )


def decode_frames(
    source: VideoFile, index: VideoIndex, wanted: np.ndarray, backend: str, deadline: Deadline
) -> Iterator[Image.Image]:
    """Yield the wanted frames, RGB and upright; only one is held at a time.

    Args:
        source: The file.
        index: Its index.
        wanted: Increasing frame numbers, int64 ``(n,)``.
        backend: ``auto`` or the name of a decoder (``VideoSettings.backend``).
        deadline: When to give up.

    Raises:
        MediaError: ``corrupt_media``: a wanted frame does not decode, or time is over.
        MissingDependencyError: The decoder asked for is not installed.
    """
    name = choose_backend(backend)
    # PyAV alone turns frames by their display matrix and reads containers without times.
    plain = index.pts is not None and index.turns == 0
    if name == "torchcodec" and plain:
        frames = _by_torchcodec(source, wanted)
    elif name == "decord" and plain:
        frames = _by_decord(source, wanted)
    else:
        frames = _by_pyav(source, index, wanted, deadline)
    turn = _TURNS.get(index.turns)
    for frame in frames:
        deadline.check()
        yield frame.transpose(turn) if turn is not None else frame


@functools.cache
def choose_backend(wanted: str) -> str:
    """Name of the decoder to use; logs the choice once.

    Raises:
        MissingDependencyError: It is not installed.
    """
    order = ("torchcodec", "pyav", "decord") if wanted == "auto" else (wanted,)
    problems = []
    for name in order:
        try:
            importlib.import_module(_MODULES[name])
        except (ImportError, OSError, RuntimeError) as error:
            # torchcodec raises the latter two where FFmpeg or CUDA does not fit.
            problems.append(f"{name}: {str(error).splitlines()[0] if str(error) else error!r}")
            continue
        logger.info("videos are decoded by %s (video.backend: %s)", name, wanted)
        return name
    raise MissingDependencyError(
        f"video.backend is {wanted}, which does not load ({'; '.join(problems)}); pip install "
        f"{wanted}, or set video.backend: auto"
    )


def _by_pyav(
    source: VideoFile, index: VideoIndex, wanted: np.ndarray, deadline: Deadline
) -> Iterator[Image.Image]:
    name = name_of(source)
    try:
        with open_video(source) as container:
            stream = container.streams.video[0]
            stream.thread_type = "SLICE"  # workers are many: frame threads only add latency
            if index.pts is None:
                yield from _counted(container, stream, wanted, name, deadline)
            else:
                yield from _sought(container, stream, index, wanted, name, deadline)
    except (av.FFmpegError, EOFError) as error:
        raise MediaError(f"{name}: a wanted frame does not decode ({error})") from error


def _counted(
    container: Any, stream: Any, wanted: np.ndarray, name: str, deadline: Deadline
) -> Iterator[Image.Image]:
    """Decode from the start and count: for containers that do not time their frames."""
    remaining = list(wanted.tolist())
    for number, frame in enumerate(container.decode(stream)):
        deadline.check()
        if number == remaining[0]:
            yield _to_image(frame, name)
            remaining.pop(0)
            if not remaining:
                return
    raise MediaError(f"{name}: frame {remaining[0]} is missing; the file is damaged")


def _sought(
    container: Any,
    stream: Any,
    index: VideoIndex,
    wanted: np.ndarray,
    name: str,
    deadline: Deadline,
) -> Iterator[Image.Image]:
    """Decode on, or jump to a key frame wherever that saves decoding."""
    assert index.pts is not None
    frames = container.decode(stream)
    position: int | None = None
    for number in wanted.tolist():
        target = int(index.pts[number])
        place = int(np.searchsorted(index.key_pts, target, side="right")) - 1
        key = int(index.key_pts[place]) if place > 0 else None
        if key is not None and (position is None or key > position):
            container.seek(key, stream=stream, backward=True)
            frames = container.decode(stream)
        found = _advance(frames, target, deadline)
        if found is None or found.pts != target:
            # Some containers seek past the key frame: once more, from the start.
            container.seek(int(index.pts[0]), stream=stream, backward=True)
            frames = container.decode(stream)
            found = _advance(frames, target, deadline)
        if found is None or found.pts != target:
            raise MediaError(
                f"{name}: frame {number} at {index.seconds(number):.2f} s does not decode; the "
                f"file is damaged"
            )
        position = target
        yield _to_image(found, name)


def _advance(frames: Iterator[Any], target: int, deadline: Deadline) -> Any:
    """The first frame at or after ``target``, or None at the end."""
    for frame in frames:
        deadline.check()
        if frame.pts is None or frame.pts >= target:
            return frame
    return None


def _to_image(frame: Any, name: str) -> Image.Image:
    if frame.is_corrupt:
        raise MediaError(f"{name}: a wanted frame (pts {frame.pts}) is damaged")
    return frame.to_image()


def _by_torchcodec(source: VideoFile, wanted: np.ndarray) -> Iterator[Image.Image]:
    from torchcodec.decoders import VideoDecoder

    plain = str(source) if isinstance(source, str | Path) else bytes(source)
    try:
        decoder = VideoDecoder(plain, dimension_order="NHWC", num_ffmpeg_threads=1)
        for number in wanted.tolist():
            yield Image.fromarray(decoder.get_frame_at(number).data.numpy())
    except (RuntimeError, IndexError, ValueError) as error:
        raise MediaError(f"{name_of(source)}: a wanted frame does not decode ({error})") from error


def _by_decord(source: VideoFile, wanted: np.ndarray) -> Iterator[Image.Image]:
    import decord

    plain = str(source) if isinstance(source, str | Path) else io.BytesIO(source)
    try:
        reader = decord.VideoReader(plain, num_threads=1)
        for number in wanted.tolist():
            yield Image.fromarray(reader[number].asnumpy())
    except (decord.DECORDError, RuntimeError, IndexError) as error:
        raise MediaError(f"{name_of(source)}: a wanted frame does not decode ({error})") from error
