"""One line on the terminal while files arrive: bytes, rate, time left, files."""

import sys
import threading
from types import TracebackType
from typing import TYPE_CHECKING

from smolvlm2.data.download.text import show_bytes

if TYPE_CHECKING:  # rich is loaded where a terminal is there to draw on
    from rich.progress import Progress, TaskID


class DownloadProgress:
    """Counts bytes and files; draws them where somebody watches, else says a line now and then."""

    def __init__(self, total_bytes: int, total_files: int) -> None:
        self.total_bytes = total_bytes
        self.total_files = total_files
        self.bytes = 0
        self.files = 0
        self._lock = threading.Lock()
        self._bar = _make_bar(total_bytes, total_files) if sys.stderr.isatty() else None
        self._said = 0

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

    def moved(self, count: int) -> None:
        """Note bytes; negative when a file starts anew. Called by all workers."""
        with self._lock:
            self.bytes += count
            if self._bar is not None:
                self._bar[0].update(self._bar[1], completed=self.bytes)

    def arrived(self) -> None:
        """Note a finished file; without a terminal every twentieth of the bytes is a line."""
        with self._lock:
            self.files += 1
            files = f"{self.files}/{self.total_files} files"
            if self._bar is not None:
                self._bar[0].update(self._bar[1], files=files)
            elif (step := 20 * self.bytes // max(1, self.total_bytes)) > self._said:
                self._said = step
                print(
                    f"fetched {show_bytes(self.bytes)} of {show_bytes(self.total_bytes)}, {files}",
                    file=sys.stderr,
                )


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
