"""One line on the terminal while files arrive: bytes, rate, time left, files."""

import sys
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING

from smolvlm2.data.download.text import show_bytes, show_duration

if TYPE_CHECKING:  # rich is loaded where a terminal is there to draw on
    from rich.progress import Progress, TaskID


_SAY_EVERY = 30.0
"""Seconds between two lines where no terminal shows a bar."""


class DownloadProgress:
    """Counts bytes and files; draws them where somebody watches, else says a line now and then.

    Args:
        total_bytes: To come.
        total_files: To come.
        clock: Seconds; another one in tests.
    """

    def __init__(
        self, total_bytes: int, total_files: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.total_bytes = total_bytes
        self.total_files = total_files
        self.bytes = 0
        self.files = 0
        self._clock = clock
        self._started = self._said = clock()
        self._lock = threading.Lock()
        self._bar = _make_bar(total_bytes, total_files) if sys.stderr.isatty() else None

    def __enter__(self) -> "DownloadProgress":
        if self._bar is not None:
            self._bar[0].start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar[0].stop()
        elif self.total_files:
            print(self.line(), file=sys.stderr)

    def moved(self, count: int) -> None:
        """Note bytes; negative when a file starts anew. Called by all workers."""
        with self._lock:
            self.bytes += count
            if self._bar is not None:
                self._bar[0].update(self._bar[1], completed=self.bytes)
            elif self._clock() - self._said >= _SAY_EVERY:
                self._said = self._clock()
                print(self.line(), file=sys.stderr, flush=True)

    def arrived(self) -> None:
        """Note a file that is in its place."""
        with self._lock:
            self.files += 1
            if self._bar is not None:
                files = f"{self.files}/{self.total_files} files"
                self._bar[0].update(self._bar[1], files=files)

    def line(self) -> str:
        """Bytes, files, rate and time left as text."""
        rate = self.bytes / max(self._clock() - self._started, 1e-9)
        text = (
            f"fetched {show_bytes(self.bytes)} of {show_bytes(self.total_bytes)}, "
            f"{self.files}/{self.total_files} files, {show_bytes(rate)}/s"
        )
        left = self.total_bytes - self.bytes
        return f"{text}, {show_duration(left / rate)} left" if left > 0 and rate > 0 else text


def _make_bar(total_bytes: int, total_files: int) -> "tuple[Progress, TaskID]":
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    progress = Progress(
        TextColumn("{task.fields[files]}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        speed_estimate_period=60,
    )
    return progress, progress.add_task("", total=total_bytes, files=f"0/{total_files} files")
