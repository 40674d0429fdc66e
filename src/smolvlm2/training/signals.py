"""Asking a run to stop: signals, and the end of its time.

Handlers only note that they were called. The loop asks between two steps, saves and ends.
"""

import contextlib
import os
import re
import signal
import threading
import time
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any, Literal

from smolvlm2.errors import ConfigError

Ending = Literal["finished", "signal", "time"]

EXIT_CODES: dict[Ending, int] = {"finished": 0, "signal": 0, "time": 75}
"""75 is EX_TEMPFAIL: the scheduler's script starts the same command again."""
UNITS = {"d": 86400, "h": 3600, "m": 60, "s": 1}


def parse_duration(text: str) -> float:
    """Seconds of ``3h50m``, ``90s``, ``1d``; a bare number counts seconds.

    Raises:
        ConfigError: Neither.

    >>> parse_duration("3h50m")
    13800.0
    """
    if re.fullmatch(r"\d+(\.\d+)?", text):
        return float(text)
    if not re.fullmatch(r"(\d+[dhms])+", text):
        raise ConfigError(f"duration {text!r} is not of the form 3h50m, 90s or 1d12h")
    return float(sum(int(n) * UNITS[unit] for n, unit in re.findall(r"(\d+)([dhms])", text)))


class StopRequest:
    """Whether this process was asked to stop; a context that listens to SIGTERM, SIGUSR1 and the
    first Ctrl-C. The second one interrupts as ever.

    Args:
        seconds: Time after which to stop, from now; None: no limit.
        clock: Gives seconds; monotonic, so that setting the wall clock changes nothing.
    """

    def __init__(
        self, seconds: float | None = None, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._clock = clock
        self._end = None if seconds is None else clock() + seconds
        self._before: dict[signal.Signals, Any] = {}
        self._depth = 0
        self.signal: str | None = None
        """Name of the signal received last."""
        self._interrupted = False

    def exit_code(self, ending: Ending) -> int:
        """Status of a process whose run ended so; 130 by Ctrl-C, so that a script ends with it."""
        return 130 if ending == "signal" and self.signal == "SIGINT" else EXIT_CODES[ending]

    def pending(self) -> Ending | None:
        """Why to stop now; a signal goes before the time."""
        if self.signal is not None:
            return "signal"
        if self._end is not None and self._clock() >= self._end:
            return "time"
        return None

    def __enter__(self) -> "StopRequest":
        self._depth += 1
        # Python delivers signals to the main thread only; elsewhere the caller's own rule holds.
        if self._depth == 1 and threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT):
                self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._depth -= 1
        if self._depth:
            return
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before.clear()

    def _note(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT:
            if self._interrupted:
                signal.default_int_handler(number, frame)
            # Before it is said: an error here would end the run unsaved.
            self._interrupted, self.signal = True, "SIGINT"
            # Not by a logger: the signal may have come while one held its lock.
            with contextlib.suppress(OSError):  # Ctrl-C ends a `| tee` that reads this, too
                os.write(2, b"\nstops and saves after this step; Ctrl-C again: at once, unsaved\n")
        self.signal = signal.Signals(number).name
