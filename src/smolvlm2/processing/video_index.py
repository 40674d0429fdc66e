"""What a video file holds, read from its packets without decoding them."""

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import av
import numpy as np

from smolvlm2.errors import MediaError, MediaNotFoundError
from smolvlm2.processing.range_file import RangeFile
from smolvlm2.processing.video_packets import Packets

VideoFile = bytes | str | Path | RangeFile | BinaryIO
"""Bytes, a path, or a file that is open for reading and can be sought in."""
MISSING_SHARE = 0.9
"""A file with less than this share of what its header promises, frames or time, was cut off."""

SURE_TIMES = frozenset({"mov,mp4,m4a,3gp,3g2,mj2", "mpegts"})
"""Containers that always say when a frame is shown, also where no frame is out of order."""
TOLD_DURATIONS = frozenset({"matroska,webm"})
"""Containers whose header says how long they are, and not how many frames they have. FLV says so,
too, but keeps what it said of a longer clip that it was cut from."""


@dataclass(frozen=True)
class VideoInfo:
    """A clip in numbers: what the planner stores of it."""

    width: int
    """Upright width, in pixels."""
    height: int
    """Upright height, in pixels."""
    duration: float
    """Length, in seconds: from the first frame to the end of the last."""
    fps: float
    """Mean frames a second."""
    num_frames: int
    """Frames in the file."""


@dataclass(frozen=True)
class VideoIndex:
    """Where each frame of a file is."""

    info: VideoInfo
    pts: np.ndarray | None
    """Presentation times in order of presentation, ``(n,)``, in units of ``time_base``; None where
    the container has none and frames can only be counted."""
    packets: Packets | None
    """Of the video stream; None where ``pts`` is."""
    time_base: float
    """Seconds in a unit of ``pts``."""
    turns: int
    """Quarter turns counter-clockwise that bring frames upright, 0 to 3."""

    def seconds(self, frame: int) -> float:
        """True time of a frame, in seconds after the first."""
        if self.pts is None:
            return frame / self.info.fps
        return float(self.pts[frame] - self.pts[0]) * self.time_base


def name_of(source: Any) -> str:
    """How messages call a video."""
    if isinstance(source, str | Path):
        return str(source)
    if isinstance(source, bytes | bytearray | memoryview):
        return f"video of {len(source)} bytes"
    if isinstance(source, RangeFile):
        return str(source)
    if is_file(source):
        return f"video in {getattr(source, 'name', 'an open file')}"
    return f"video given as {type(source).__name__}"


def is_file(source: Any) -> bool:
    """Whether a source is an open file that can be sought in."""
    return all(hasattr(source, name) for name in ("read", "seek", "tell"))


def open_video(source: VideoFile) -> Any:
    """Open a container with at least one video stream.

    Raises:
        MediaNotFoundError: No such file.
        MediaError: ``corrupt_media`` where the bytes are no video.
        OSError: An open file cannot be read further: the disk's fault, not the file's.
    """
    name = name_of(source)
    if isinstance(source, str | Path):
        if not Path(source).is_file():
            raise MediaNotFoundError(f"{name}: no such video file")
        target: Any = str(source)
    elif isinstance(source, bytes | bytearray | memoryview):
        target = io.BytesIO(source)
    elif is_file(source):
        source.seek(0)
        target = source
    else:
        raise MediaError(
            f"{name}; expected bytes, a path, an open file or a FrameSequence",
            reason="unsupported_media",
        )
    try:
        container = av.open(target)
    except (av.FFmpegError, UnicodeError) as error:
        raise MediaError(f"{name}: not a readable video ({error}); replace or skip it") from error
    if not container.streams.video:
        container.close()
        raise MediaError(f"{name}: has no video stream; replace or skip it")
    context = container.streams.video[0].codec_context
    if context is None:
        container.close()
        raise MediaError(f"{name}: packed by a codec that FFmpeg does not know; replace or skip it")
    # Workers are many: more threads each only add overhead and, with whole frames, latency.
    context.thread_type, context.thread_count = "SLICE", 1
    return container


def index_video(source: VideoFile) -> VideoIndex:
    """Read all packet times and the first frame.

    Raises:
        MediaNotFoundError: No such file.
        MediaError: ``corrupt_media``: not a video, no stream, zero length, cut off.
    """
    name = name_of(source)
    with open_video(source) as container:
        stream = container.streams.video[0]
        try:
            packets = [packet for packet in container.demux(stream) if packet.size]
            shown = [packet for packet in packets if not packet.is_discard]
            promised, time_base = stream.frames, stream.time_base
            reordered = bool(stream.codec_context.has_b_frames)
            rate = float(stream.average_rate or 0)
            timed = container.format.name in SURE_TIMES
            if not shown:
                raise MediaError(f"{name}: video of zero length; replace or skip it")
            slots = _count_slots(container, packets)
            if packets[-1].is_corrupt or slots < MISSING_SHARE * promised:
                among = f"{len(packets)} of {promised}" if promised else f"only {len(packets)}"
                raise MediaError(
                    f"{name}: cut off: {among} frames are there; fetch the file again or skip it"
                )
            if container.format.name in TOLD_DURATIONS:
                _check_duration(source, container.duration, packets[-1])
            first = _first_frame(source, container)
        except (av.FFmpegError, EOFError) as error:
            raise MediaError(f"{name}: video does not decode ({error})") from error
    if first is None:
        raise MediaError(f"{name}: no frame of the video decodes; replace or skip it")
    times = [packet.pts for packet in shown]
    base = float(time_base) if time_base else 0.0
    known = base > 0 and None not in times and len(set(times)) == len(times)
    if known and reordered and not timed and len(times) > 2 and times == sorted(times):
        known = False  # AVI numbers packets as they lie in the file, not as they are shown
    pts = np.sort(np.array(times, dtype=np.int64)) if known else None
    if pts is not None:
        tail = shown[int(np.argmax(times))].duration or 0
        gap = tail or (int(pts[-1] - pts[0]) / max(len(pts) - 1, 1))
        duration = float(pts[-1] - pts[0] + gap) * base
    else:
        duration = (slots - len(packets) + len(shown)) / rate if rate else 0.0
    if duration <= 0:
        raise MediaError(f"{name}: video of zero length; replace or skip it")
    turns = round(getattr(first, "rotation", 0) / 90) % 4
    size = (first.height, first.width) if turns % 2 else (first.width, first.height)
    return VideoIndex(
        info=VideoInfo(*size, duration, len(shown) / duration, len(shown)),
        pts=pts,
        packets=_packets(packets) if known else None,
        time_base=base,
        turns=turns,
    )


def _count_slots(container: Any, packets: list[Any]) -> int:
    """Frames that the packets account for: AVI counts the empty ones, which repeat a frame."""
    last = packets[-1].dts
    if container.format.name != "avi" or last is None:
        return len(packets)
    return max(len(packets), int(last) + 1)


def _check_duration(source: VideoFile, promised: int | None, last: Any) -> None:
    """Raise MediaError where no stream goes on to near the end that the header promises."""
    expected = MISSING_SHARE * (promised or 0) / av.time_base
    found = _end_of(last)
    if found >= expected:
        return
    with open_video(source) as container:  # sound may go on
        for packet in container.demux():
            if packet.size:
                found = max(found, _end_of(packet))
    if found < expected:
        raise MediaError(
            f"{name_of(source)}: cut off: {found:.1f} of {(promised or 0) / av.time_base:.1f} s "
            f"are there; fetch the file again or skip it"
        )


def _end_of(packet: Any) -> float:
    """Until when a packet is shown, in seconds; 0 where it does not say."""
    start = packet.pts if packet.pts is not None else packet.dts
    return 0.0 if start is None else float((start + (packet.duration or 0)) * packet.time_base)


def _first_frame(source: VideoFile, container: Any) -> Any:
    try:
        container.seek(0)
    except av.FFmpegError:  # some containers without an index cannot, where nothing is at 0
        with open_video(source) as again:
            return next(again.decode(again.streams.video[0]), None)
    return next(container.decode(container.streams.video[0]), None)


def _packets(packets: list[Any]) -> Packets | None:
    if any(packet.pts is None for packet in packets):
        return None
    return Packets(
        pts=np.array([packet.pts for packet in packets], dtype=np.int64),
        key=np.array([packet.is_keyframe for packet in packets], dtype=bool),
        size=np.array([packet.size for packet in packets], dtype=np.int64),
    )
