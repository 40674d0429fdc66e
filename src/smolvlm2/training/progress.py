"""What a person sees while a stage trains."""

import contextlib
import sys
import time
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.progress import (
    Progress as Bar,
)

LINE_SECONDS = 10.0
"""Between lines where there is no terminal to draw a bar on."""
SMOOTHING = 0.9
"""Of the shown loss and rates: weight of what was there before."""


class Progress:
    """A bar on a terminal, a line every ten seconds elsewhere; on standard error.

    Args:
        total: Steps of the stage.
        label: Its name.
    """

    def __init__(self, total: int, *, label: str) -> None:
        self.total, self.label = total, label
        self._smooth: dict[str, float] = {}
        self._said = 0.0
        console = Console(stderr=True)
        self._bar: Bar | None = None
        if console.is_terminal:
            self._bar = Bar(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[facts]}"),
                TimeElapsedColumn(),
                TimeRemainingColumn(),
                console=console,
            )
            self._task = self._bar.add_task(label, total=total, facts="")

    def update(self, line: dict[str, Any]) -> None:
        """Show a line of the log."""
        for name in ("loss", "tokens_per_second", "tiles_per_second", "seconds"):
            if line.get(name) is not None:
                before = self._smooth.get(name, line[name])
                self._smooth[name] = SMOOTHING * before + (1 - SMOOTHING) * line[name]
        shown, done = self._smooth, line["step"] + 1
        facts = (
            f"loss {shown.get('loss', float('nan')):.3f}  "
            f"{shown['tokens_per_second']:,.0f} tokens/s  {shown['tiles_per_second']:,.0f} tiles/s"
        )
        if self._bar is not None:
            self._bar.update(self._task, completed=done, facts=facts)
        elif time.monotonic() - self._said > LINE_SECONDS or done == self.total:
            self._said = time.monotonic()
            left = shown["seconds"] * (self.total - done)
            with contextlib.suppress(OSError):  # whoever read it is gone; the run is not lost
                print(
                    f"{self.label} {done}/{self.total}  {facts}  {left:,.0f} s left",
                    file=sys.stderr,
                    flush=True,
                )

    def __enter__(self) -> "Progress":
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(self, *exception: object) -> None:
        if self._bar is not None:
            self._bar.stop()
