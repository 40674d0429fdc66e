"""Wanted frames of a video file, one by one, by whichever decoder is installed."""

import contextlib
import functools
import importlib
import io
import itertools
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
from smolvlm2.processing.video_index import VideoFile, VideoIndex, is_file, name_of, open_video
from smolvlm2.processing.video_packets import EXACT_SKIPS, needed_runs, worth_a_seek

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
    done = 0
    try:
        if index.pts is not None and index.packets is not None:
            # What fails here may be the seek alone: the way from the start says what is wrong.
            with contextlib.suppress(av.FFmpegError):
                for frame in _needed(source, index, index.pts[wanted], deadline):
                    done += 1
                    yield _to_image(frame)
        if done < len(wanted):
            # Every packet, with what is wrong said: for containers that do not time their frames,
            # and for clips in which leaving packets out lost a frame.
            for frame in _counted(source, index, wanted[done:], deadline):
                yield _to_image(frame)
    except (av.FFmpegError, EOFError) as error:
        raise MediaError(f"{name}: a wanted frame does not decode ({error})") from error


def _needed(
    source: VideoFile, index: VideoIndex, targets: np.ndarray, deadline: Deadline
) -> Iterator[Any]:
    """The wanted frames up to the first that does not come, from as few packets as possible."""
    remaining = targets.tolist()
    with open_video(source) as container:
        for frame in _decode_needed(container, index, targets, deadline):
            if frame.pts is None or frame.pts < remaining[0]:
                continue
            if frame.pts > remaining[0] or frame.is_corrupt:
                return
            yield frame
            remaining.pop(0)
            if not remaining:
                return


def _decode_needed(
    container: Any, index: VideoIndex, targets: np.ndarray, deadline: Deadline
) -> Iterator[Any]:
    """Decode the packets that `needed_runs` names; the decoder starts anew at each run."""
    assert index.packets is not None
    packets, wanted = index.packets, set(targets.tolist())
    stream = container.streams.video[0]
    context = stream.codec_context
    skips = context.name in EXACT_SKIPS
    numbered, place = enumerate(_packets_of(container, stream)), 0
    for start, stop in needed_runs(packets, targets):
        if worth_a_seek(packets, place, start):
            container.seek(int(packets.pts[start]), stream=stream, backward=True)
            found = _packets_of(container, stream)
            first = next(found, None)
            place = -1 if first is None else packets.place(first.pts)
            if not 0 <= place <= start:
                return  # the container seeks past the key frame
            numbered = enumerate(itertools.chain([first], found), place)
        for place, packet in numbered:
            deadline.check()
            if place >= start:
                if skips:
                    context.skip_frame = "DEFAULT" if packet.pts in wanted else "NONREF"
                yield from context.decode(packet)
            if place == stop - 1:
                break
        place = stop
        yield from context.decode(None)
        context.flush_buffers()


def _packets_of(container: Any, stream: Any) -> Iterator[Any]:
    """As `index_video` counts them."""
    return (packet for packet in container.demux(stream) if packet.size)


def _counted(
    source: VideoFile, index: VideoIndex, wanted: np.ndarray, deadline: Deadline
) -> Iterator[Any]:
    """Decode from the start; frames are known by their time or, without times, by counting."""
    name, remaining = name_of(source), list(wanted.tolist())
    with open_video(source) as container:
        for number, frame in enumerate(container.decode(container.streams.video[0])):
            deadline.check()
            if index.pts is None:
                found = number == remaining[0]
            else:
                found = frame.pts == index.pts[remaining[0]]
            if not found:
                continue
            if frame.is_corrupt:
                raise MediaError(f"{name}: a wanted frame (pts {frame.pts}) is damaged")
            yield frame
            remaining.pop(0)
            if not remaining:
                return
    raise MediaError(
        f"{name}: frame {remaining[0]} at {index.seconds(remaining[0]):.2f} s does not decode; the "
        f"file is damaged"
    )


def _to_image(frame: Any) -> Image.Image:
    # PyAV's own to_image takes four times as long for the same pixels.
    return Image.fromarray(frame.to_ndarray(format="rgb24"))


def _content(source: Any) -> bytes:
    if not is_file(source):
        return bytes(source)
    source.seek(0)
    return bytes(source.read())


def _by_torchcodec(source: VideoFile, wanted: np.ndarray) -> Iterator[Image.Image]:
    from torchcodec.decoders import VideoDecoder

    plain = str(source) if isinstance(source, str | Path) else _content(source)
    try:
        decoder = VideoDecoder(plain, dimension_order="NHWC", num_ffmpeg_threads=1)
        for number in wanted.tolist():
            yield Image.fromarray(decoder.get_frame_at(number).data.numpy())
    except (RuntimeError, IndexError, ValueError) as error:
        raise MediaError(f"{name_of(source)}: a wanted frame does not decode ({error})") from error


def _by_decord(source: VideoFile, wanted: np.ndarray) -> Iterator[Image.Image]:
    import decord

    plain = str(source) if isinstance(source, str | Path) else io.BytesIO(_content(source))
    try:
        reader = decord.VideoReader(plain, num_threads=1)
        for number in wanted.tolist():
            yield Image.fromarray(reader[number].asnumpy())
    except (decord.DECORDError, RuntimeError, IndexError) as error:
        raise MediaError(f"{name_of(source)}: a wanted frame does not decode ({error})") from error
