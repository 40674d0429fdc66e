"""Which frames of a clip are looked at, from three numbers about it."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from smolvlm2.errors import ConfigError

SKIPPED_SECONDS = 1.0
"""Left out at both ends of a clip that is longer than the frames can cover."""
BACKENDS = ("auto", "torchcodec", "pyav", "decord")


@dataclass(kw_only=True)
class VideoSettings:
    """How a clip becomes frames."""

    max_frames: int = 64
    """Most frames taken from a clip."""
    fps: float = 1.0
    """Frames a second taken from a clip that needs no more than ``max_frames``."""
    backend: Literal["auto", "torchcodec", "pyav", "decord"] = "auto"
    """Decoder; ``auto`` takes the first that is installed, in this order."""
    timeout_s: float = 120.0
    """Seconds of wall clock after which a clip is given up, checked between frames."""

    def __post_init__(self) -> None:
        if self.backend not in BACKENDS:
            raise ConfigError(
                f"video.backend is {self.backend!r}; expected one of {', '.join(BACKENDS)}"
            )
        if self.max_frames < 1 or self.fps <= 0 or self.timeout_s <= 0:
            raise ConfigError(
                f"video.max_frames {self.max_frames}, fps {self.fps} and timeout_s "
                f"{self.timeout_s} must be positive"
            )


def sample_frames(
    num_frames: int,
    fps: float,
    duration: float,
    settings: VideoSettings,
    max_frames: int | None = None,
) -> np.ndarray:
    """Choose frames evenly over the whole clip.

    Args:
        num_frames: Frames in the file, at least 1.
        fps: Frames a second of the file.
        duration: Length of the clip, in seconds.
        settings: How many frames are wanted.
        max_frames: Overrides the setting.

    Returns:
        Increasing frame numbers, int64 ``(n,)``, ``1 <= n <= max_frames``.

    Source:
        Equal to transformers' SmolVLMVideoProcessor.sample_frames (tests/processing).
    """
    first, last, wanted = (
        int(value[0]) for value in _ranges([num_frames], [fps], [duration], settings, max_frames)
    )
    return np.unique(np.linspace(first, last, wanted, dtype=np.int64))


def count_frames(
    num_frames: ArrayLike,
    fps: ArrayLike,
    durations: ArrayLike,
    settings: VideoSettings,
    max_frames: ArrayLike | None = None,
) -> np.ndarray:
    """How many frames ``sample_frames`` chooses from each clip, int64 ``(n,)``."""
    first, last, wanted = _ranges(num_frames, fps, durations, settings, max_frames)
    # With room for each, rounded-down points at least one frame apart are distinct; without, they
    # cover the range.
    return np.minimum(wanted, last - first + 1)


def _ranges(
    num_frames: ArrayLike,
    fps: ArrayLike,
    durations: ArrayLike,
    settings: VideoSettings,
    max_frames: ArrayLike | None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """First frame, last frame and wanted number of frames, each int64 ``(n,)``."""
    total = np.atleast_1d(np.asarray(num_frames, dtype=np.int64))
    rate = np.asarray(fps, dtype=np.float64)
    seconds = np.atleast_1d(np.asarray(durations, dtype=np.float64))
    most = np.asarray(settings.max_frames if max_frames is None else max_frames, dtype=np.int64)
    wanted = np.rint(settings.fps * seconds).astype(np.int64)
    wanted = np.maximum(np.minimum(wanted, most), 1)
    too_long = seconds - 2 * SKIPPED_SECONDS > most * settings.fps
    first = np.where(too_long, (SKIPPED_SECONDS * rate).astype(np.int64), 0)
    last = np.where(too_long, (total - SKIPPED_SECONDS * rate).astype(np.int64), total - 1)
    last = np.minimum(last, total - 1)
    empty = first >= last
    return np.where(empty, 0, first), np.where(empty, total - 1, last), wanted
