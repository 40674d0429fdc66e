"""Frames of the part of a clip that a question asks about."""

from collections.abc import Iterator
from typing import Literal

import numpy as np
from PIL import Image

from smolvlm2.errors import MediaError
from smolvlm2.evaluation.benchmark import PromptStyle
from smolvlm2.evaluation.media_index import FrameFolder
from smolvlm2.evaluation.questions import Medium
from smolvlm2.processing.image_reading import open_image
from smolvlm2.processing.video import VideoSettings, sample_frames
from smolvlm2.processing.video_decoding import Deadline, decode_frames
from smolvlm2.processing.video_index import index_video

FrameRule = Literal["native", "seconds"]
"""``native``: as in training, true times. ``seconds``: the frame at each whole second, thinned out
evenly to the limit, called by that second, as VLMEvalKit's 1 fps data sets have it."""


def frame_rule(style: PromptStyle) -> FrameRule:
    """Which frames a prompt style shows."""
    return "seconds" if style == "vlmevalkit" else "native"


class Frames:
    """Chosen frames of a clip: their times, and the pictures on request."""

    def __init__(self, medium: Medium, settings: VideoSettings, rule: FrameRule) -> None:
        """Choose; nothing is decoded yet.

        Args:
            medium: A video, possibly with bounds.
            settings: How many frames, by which decoder.
            rule: Which of them.

        Raises:
            MediaError: The clip cannot be read.
        """
        self._medium, self._settings = medium, settings
        self._deadline = Deadline.of(str(medium), settings.timeout_s)
        if isinstance(medium.source, FrameFolder):
            count, fps = len(medium.source.frames), medium.source.rate
            self._index = None
        else:
            self._file = medium.open()
            self._index = index_video(self._file)
            count, fps = self._index.info.num_frames, self._index.info.fps
        first, last = _bounds(medium, count, fps)
        part = last - first + 1
        self.duration = part / fps
        """Seconds of the part."""
        if part == count and self._index is not None:
            self.duration = self._index.info.duration
        chosen = _choose(part, fps, self.duration, settings, rule)
        self._numbers: list[int] = (first + chosen).tolist()
        seconds = self._index.seconds if self._index is not None else lambda i: i / fps
        self.timestamps = np.array([seconds(i) - seconds(first) for i in self._numbers])
        """Seconds from the part's start, ``(n,)``."""
        if rule == "seconds":
            self.timestamps = np.rint(chosen / fps)

    def __len__(self) -> int:
        return len(self._numbers)

    def pictures(self) -> Iterator[Image.Image]:
        """The chosen frames, RGB and upright.

        Raises:
            MediaError: One does not decode, or it takes longer than the settings allow.
        """
        source = self._medium.source
        if isinstance(source, FrameFolder):
            for number in self._numbers:
                self._deadline.check()
                yield open_image(source.frames[number].open())
            return
        assert self._index is not None
        wanted = np.array(self._numbers, dtype=np.int64)
        yield from decode_frames(
            self._file, self._index, wanted, self._settings.backend, self._deadline
        )


def _bounds(medium: Medium, count: int, fps: float) -> tuple[int, int]:
    """First and last frame of the part, with MVBench's rounding of seconds."""
    first = 0 if medium.start is None else max(0, round(medium.start * fps))
    last = count - 1 if medium.end is None else min(count - 1, round(medium.end * fps))
    if first > last:
        raise MediaError(f"{medium}: no frame within bounds; the clip has {count / fps:.1f} s")
    return first, last


def _choose(
    count: int, fps: float, duration: float, settings: VideoSettings, rule: FrameRule
) -> np.ndarray:
    if rule == "native":
        return sample_frames(count, fps, duration, settings)
    seconds = np.arange(max(1, int(duration)))
    if len(seconds) > settings.max_frames:
        seconds = seconds[np.linspace(0, len(seconds) - 1, settings.max_frames, dtype=int)]
    return np.unique(np.minimum((seconds * fps).astype(np.int64), count - 1))
