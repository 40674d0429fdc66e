"""Where the time of a step goes, told without making the device wait for the host."""

import itertools
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import torch
from torch import Tensor, nn

from smolvlm2.model.smolvlm import SmolVLM

Part = Literal["vision", "text", "optimizer"]
PARTS: tuple[Part, ...] = ("vision", "text", "optimizer")


class StepClock:
    """Seconds of a step by part, measured from outside the model.

    On CUDA these are seconds of the device, between events on its stream that are read when it has
    got through them: the update, which is still under way when its step's line is written, counts
    in the line after, in whose time it falls. On a CPU they are seconds of the process; on other
    devices, where the host runs ahead, there are none.

    What falls where:

    - ``vision``: encoder and connector forward; from the gradient of the connector's output to the
      end of the backward pass, so the embedding's gradient, which autograd leaves to the end, too.
    - ``text``: everything else of forward and backward pass: embedding, decoder, head, loss.
    - ``optimizer``: clipping and AdamW.

    What a block computes again in the backward pass falls to its part, and so does an exchange
    with other ranks that a part waits for. Copying a pack to the device is in none.

    Args:
        device: That computes.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._marks: list[tuple[Part | None, float | torch.cuda.Event]] = []
        self._running = False
        self.waited = 0.0
        """Seconds that the host spent in exchanges since `take`."""

    def watch(self, model: SmolVLM) -> None:
        """Tell vision and text apart while the model computes."""
        model.vision_encoder.register_forward_pre_hook(lambda *_: self._turn("vision"))
        model.connector.register_forward_hook(self._leave_vision)

    def _leave_vision(self, module: nn.Module, inputs: object, output: Tensor) -> None:
        self._turn("text")
        if self._running and output.requires_grad:
            output.register_hook(lambda _: self._turn("vision"))

    @contextmanager
    def during(self, part: Part) -> Iterator[None]:
        """Count what follows as ``part``, or as what the model's hooks turn to."""
        self._running = True
        self._turn(part)
        try:
            yield
        finally:
            self._turn(None)
            self._running = False

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Around an exchange of words between ranks."""
        started = time.perf_counter()
        try:
            yield
        finally:
            self.waited += time.perf_counter() - started

    def _turn(self, part: Part | None) -> None:
        if not self._running:
            return
        if self._device.type == "cuda":
            event = torch.cuda.Event(enable_timing=True)
            event.record()
            self._marks.append((part, event))
        elif self._device.type == "cpu":
            self._marks.append((part, time.perf_counter()))

    def take(self) -> dict[str, float | None]:
        """Seconds since the last call, as a line of the log has them; starts anew.

        Returns:
            ``vision_seconds``, ``text_seconds`` and ``optimizer_seconds``; None where the device
            cannot tell. On CUDA what the device has not got through yet is left for the next call.
        """
        marks, done = self._marks, len(self._marks)
        while done and not _passed(marks[done - 1][1]):
            done -= 1
        seconds = dict.fromkeys(PARTS, 0.0)
        for (part, start), (_, end) in itertools.pairwise(marks[:done]):
            if part is not None:
                seconds[part] += _between(start, end)
        # The last mark that was passed is where what is under way began.
        self._marks = marks[max(done - 1, 0) :]
        self.waited = 0.0
        known = self._device.type in ("cpu", "cuda")
        return {f"{part}_seconds": round(seconds[part], 4) if known else None for part in PARTS}


def _passed(mark: float | torch.cuda.Event) -> bool:
    return isinstance(mark, float) or mark.query()


def _between(start: float | torch.cuda.Event, end: float | torch.cuda.Event) -> float:
    if isinstance(start, float) or isinstance(end, float):
        return end - start  # type: ignore[operator]
    return start.elapsed_time(end) / 1000
