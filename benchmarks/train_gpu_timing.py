"""Timing on the device, and the rates that everything is compared with."""

import itertools
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch

WARM_UP, LEAST, SECONDS = 3, 12, 3.0
"""Calls before timing, calls timed, and the time that they take together at least."""


class Stopwatch:
    """Moments on a device; on a CPU those of this process's own time."""

    def __init__(self, device: torch.device) -> None:
        self.cuda = device.type == "cuda"

    def mark(self) -> Any:
        """Now, in the order of what the device was given to do."""
        if not self.cuda:
            return time.process_time()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def between(self, start: Any, end: Any) -> float:
        """Milliseconds; waits for the later one."""
        if not self.cuda:
            return 1000 * (end - start)
        end.synchronize()
        return float(start.elapsed_time(end))


def timed(
    work: Callable[[], object],
    device: torch.device,
    *,
    warm_up: int = WARM_UP,
    least: int = LEAST,
    seconds: float = SECONDS,
) -> dict[str, float]:
    """Median, 10th and 90th percentile of a call's milliseconds.

    The device is not waited for between calls: what is measured is its time, not the launches,
    unless these are slower.
    """
    watch = Stopwatch(device)
    for _ in range(warm_up):
        start = watch.mark()
        work()
        once = watch.between(start, watch.mark())
    count = max(least, min(1000, round(1000 * seconds / max(once, 1e-3))))
    marks = [watch.mark()]
    for _ in range(count):
        work()
        marks.append(watch.mark())
    return spread([watch.between(a, b) for a, b in itertools.pairwise(marks)])


def spread(times: list[float]) -> dict[str, float]:
    """Median, percentiles and number."""
    if len(times) == 1:
        return {"median": times[0], "p10": times[0], "p90": times[0], "n": 1}
    tenths = statistics.quantiles(times, n=10, method="inclusive")
    found = {"median": statistics.median(times), "p10": tenths[0], "p90": tenths[-1]}
    return {name: round(value, 4) for name, value in found.items()} | {"n": len(times)}


def matmul_rate(device: torch.device, size: int) -> float:
    """TFLOP/s of a square product in bf16 (CPU: fp32), on random data: zeros run faster."""
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    ms = timed(lambda: a @ b, device, seconds=0.5)["median"]
    return round(2 * size**3 / ms / 1e9, 4)


def copy_rate(device: torch.device, size: int) -> float:
    """TB/s read and written together by a copy of ``size`` bytes."""
    source = torch.randint(0, 256, (size,), dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    ms = timed(lambda: target.copy_(source), device, seconds=0.5)["median"]
    return round(2 * size / ms / 1e9, 4)
