"""Packs on their way to the device, beside what it computes."""

from contextlib import nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor

from smolvlm2.loading.micro_batch import MicroBatch

INPUTS = (
    *("input_ids", "positions", "document_ids", "cu_seqlens", "loss_positions"),
    *("loss_targets", "loss_weights", "pixel_values", "tile_slots"),
)
"""Arrays of a pack that the model reads."""


@dataclass(kw_only=True)
class SentPack:
    """A pack whose arrays are being copied."""

    pack: MicroBatch
    """What is computed of it, in the loader's memory."""
    inputs: dict[str, Tensor]
    """On the device; see `arrive`."""
    event: torch.cuda.Event | None
    """Passed when the copy is over; None: it is."""

    def arrive(self) -> dict[str, Tensor]:
        """The model's inputs, for what is queued on the device from now on. Waits for nothing."""
        if self.event is not None:
            stream = torch.cuda.current_stream()
            stream.wait_event(self.event)
            for tensor in self.inputs.values():
                tensor.record_stream(stream)
        return self.inputs

    def wait(self) -> None:
        """Let the host wait until the loader's memory has been read."""
        if self.event is not None:
            self.event.synchronize()


class PackCopies:
    """Copies packs to a device; on CUDA on a stream of its own, while others are computed.

    Args:
        device: That computes.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None

    def send(self, pack: MicroBatch) -> SentPack:
        """Begin to copy a pack: 66 MB at 84 tiles of 512 px, 1.3 ms that nothing waits for."""
        if self._device.type == "cpu":
            pack = pack.trimmed()
        # Only CUDA tells when a copy is done. Apple's GPU would read the loader's memory later,
        # when a worker may have written another pack to it.
        later = self._device.type == "cuda"
        with nullcontext() if self._stream is None else torch.cuda.stream(self._stream):
            inputs = {
                name: torch.from_numpy(getattr(pack, name)).to(self._device, non_blocking=later)
                for name in INPUTS
            }
        event = None if self._stream is None else self._stream.record_event()
        return SentPack(pack=pack, inputs=inputs, event=event)
