"""Which packets of a clip must be decoded for the frames that are wanted."""

import functools
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

EXACT_SKIPS = frozenset({"h264"})
"""Codecs in which a picture that says that no other refers to it can be left out without a trace.
In HEVC a picture of a higher temporal layer may refer to one that says so."""
SEEK_BYTES = 2**20
"""Bytes of packets not needed that are worth a seek; fewer are read and thrown away."""


@dataclass(frozen=True)
class Packets:
    """The packets of a video stream in the order of the file, which is the order of decoding."""

    pts: NDArray[np.int64]
    """``(n,)`` presentation time of each."""
    key: NDArray[np.bool_]
    """``(n,)`` whether decoding can start there."""
    size: NDArray[np.int64]
    """``(n,)`` bytes."""

    def __len__(self) -> int:
        return len(self.pts)

    @functools.cached_property
    def unique(self) -> bool:
        """Whether a packet is known by its time."""
        return len(np.unique(self.pts)) == len(self)

    def place(self, pts: int | None) -> int:
        """Place of the packet with this time, or -1."""
        found = [] if pts is None else np.flatnonzero(self.pts == pts).tolist()
        return found[0] if found else -1


def needed_runs(packets: Packets, targets: NDArray[np.int64]) -> list[tuple[int, int]]:
    """From the last key packet at or before each target up to the target itself.

    A target right behind a key frame costs a few packets, and those before it are left out; one
    far behind costs the whole way: seeking where that is cheaper, decoding on where it is not.

    Args:
        packets: Of the file.
        targets: Presentation times of the frames that are wanted, each that of a packet.

    Returns:
        First and one past the last place of each run, ascending, none touching another.
    """
    order = np.argsort(packets.pts, kind="stable")
    # Of packets with equal times the last is the one that is shown.
    places = order[np.searchsorted(packets.pts, targets, side="right", sorter=order) - 1]
    keys = np.flatnonzero(packets.key)
    steps = np.zeros(len(packets) + 1, dtype=np.int64)
    for target, place in zip(targets.tolist(), places.tolist(), strict=True):
        # A frame shown before the key frame that lies before it in the file needs the one before.
        usable = keys[(keys <= place) & (packets.pts[keys] <= target)]
        steps[usable[-1] if len(usable) else 0] += 1
        steps[place + 1] -= 1
    needed = steps.cumsum() > 0
    changes = np.flatnonzero(np.diff(needed, prepend=False))
    return list(zip(changes[::2].tolist(), changes[1::2].tolist(), strict=True))


def worth_a_seek(packets: Packets, place: int, start: int) -> bool:
    """Whether to jump from one place to another instead of reading what lies between."""
    return packets.unique and int(packets.size[place:start].sum()) >= SEEK_BYTES
