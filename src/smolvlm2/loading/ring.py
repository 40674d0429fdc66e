"""Pack buffers in memory that trainer and workers share: no pack is ever copied between them."""

import contextlib
import logging
import mmap
import os
import tempfile
import weakref
from multiprocessing import reduction
from pathlib import Path
from typing import Any

import numpy as np

from smolvlm2.errors import DataError
from smolvlm2.loading.micro_batch import PackBuffers, PackShape

logger = logging.getLogger(__name__)

PAGE = 4096
"""Slots begin at multiples of this many bytes, arrays at multiples of 64."""
MIB = 2**20


class Ring:
    """A few pack buffers in one piece of shared memory without a name.

    The memory is an anonymous file (``memfd``; where the system has none, an unlinked file in
    /dev/shm or the temporary folder). It is gone with its last process, however that ends, and
    does not count against the size of /dev/shm, which is 64 MB in a container by default.
    """

    def __init__(self, shape: PackShape, slots: int) -> None:
        """Reserve the memory.

        Args:
            shape: Of every pack.
            slots: Number of pack buffers.

        Raises:
            DataError: There is less memory, or less room in /dev/shm; says how much is needed.
        """
        self.shape, self.slots = shape, slots
        self._stride = _aligned(sum(_aligned(size, 64) for size in _sizes(shape).values()), PAGE)
        size = self._stride * slots
        self._fd, place = _anonymous_file()
        _check_room(self._fd, place, size, slots)
        try:
            os.ftruncate(self._fd, size)
            if place == "/dev/shm":
                # Others fill it too: what is not reserved now is a bus error in mid-run.
                os.posix_fallocate(self._fd, 0, size)
        except OSError as error:
            raise DataError(_too_small(place, size, slots, str(error))) from error
        self._map()
        for slot in range(slots):
            self.buffers(slot).forget()

    def _map(self) -> None:
        self._memory = mmap.mmap(self._fd, self._stride * self.slots)
        self._close = weakref.finalize(self, os.close, self._fd)

    # Workers get the file itself; it has no name that they could open it by.
    def __getstate__(self) -> dict[str, Any]:
        kept = {"shape": self.shape, "slots": self.slots, "_stride": self._stride}
        return kept | {"_fd": reduction.DupFd(self._fd)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state | {"_fd": state["_fd"].detach()})
        self._map()

    @property
    def size(self) -> int:
        """Bytes in all."""
        return self._stride * self.slots

    def buffers(self, slot: int) -> PackBuffers:
        """The arrays of a slot; views, no copies."""
        at = slot * self._stride
        arrays: dict[str, Any] = {}
        for name, (shape, dtype) in self.shape.arrays.items():
            count = int(np.prod(shape))
            flat: np.ndarray = np.frombuffer(self._memory, dtype=dtype, count=count, offset=at)
            arrays[name] = flat.reshape(shape)
            at += _aligned(flat.nbytes, 64)
        return PackBuffers(shape=self.shape, **arrays)

    def pin(self) -> None:
        """Lock the memory for the CUDA device, so that the host need not wait for copies to it.

        Needs torch with CUDA; where the driver refuses, copies are slower and nothing else.
        """
        import torch

        runtime = torch.cuda.cudart()
        address = np.frombuffer(self._memory, dtype=np.uint8).ctypes.data
        status = int(runtime.cudaHostRegister(address, self.size, 0))
        if status:
            logger.warning(
                "%d MiB of pack buffers could not be pinned (CUDA error %d): the host waits for "
                "copies to the device; allow more locked memory (ulimit -l)",
                self.size // MIB,
                status,
            )
            _forget_refusal()
            return
        logger.info("pinned %d MiB of pack buffers", self.size // MIB)
        # The pages must be released before they are unmapped.
        weakref.finalize(self, runtime.cudaHostUnregister, address)


def _forget_refusal() -> None:
    """Take away the error that a refused call leaves behind in CUDA's runtime.

    It would be raised by the next kernel that anybody launches. torch does not expose the call
    that reads and clears it, but checks it behind every launch.
    """
    import torch

    with contextlib.suppress(RuntimeError):
        torch.ones(1, device="cuda")


def _sizes(shape: PackShape) -> dict[str, int]:
    return {
        name: int(np.prod(extent)) * np.dtype(dtype).itemsize
        for name, (extent, dtype) in shape.arrays.items()
    }


def _aligned(size: int, to: int) -> int:
    return -(-size // to) * to


def _anonymous_file() -> tuple[int, str]:
    """A file without a name, and where it is."""
    if hasattr(os, "memfd_create"):
        try:
            return os.memfd_create("smolvlm2-packs"), "memory"
        except OSError as error:
            logger.info("no anonymous memory (%s): pack buffers go to /dev/shm", error)
    folder = "/dev/shm" if os.path.isdir("/dev/shm") else tempfile.gettempdir()
    handle, name = tempfile.mkstemp(prefix="smolvlm2-packs-", dir=folder)
    os.unlink(name)
    return handle, folder


def _check_room(handle: int, place: str, size: int, slots: int) -> None:
    """Refuse before the first step what would end in a bus error or out of memory later."""
    system = os.fstatvfs(handle)
    if system.f_blocks and system.f_bavail * system.f_frsize < size:
        free = system.f_bavail * system.f_frsize
        raise DataError(_too_small(place, size, slots, f"{free / MIB:.0f} MiB are free"))
    available = available_memory()
    if available is not None and available < size:
        raise DataError(_too_small("memory", size, slots, f"{available / MIB:.0f} MiB are free"))


def _too_small(place: str, size: int, slots: int, found: str) -> str:
    return (
        f"{place} is too small for the loader's pack buffers: {slots} packs need "
        f"{size / MIB:.0f} MiB and {found}; use fewer data.workers or a smaller pack (pack.tiles, "
        f"pack.tokens)"
        + (f", mount a larger {place} (docker run --shm-size)" if place == "/dev/shm" else "")
        + ", or read in the main process with data.workers=0"
    )


def available_memory(root: Path = Path("/")) -> int | None:
    """Bytes that can still be used, by the machine and by this control group; None: unknown.

    Args:
        root: Where ``proc`` and ``sys`` are mounted.
    """
    found = []
    try:
        for line in (root / "proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                found.append(int(line.split()[1]) * 1024)
    except (OSError, ValueError):
        pass
    for folder, limit, used, prefix in (
        ("sys/fs/cgroup", "memory.max", "memory.current", ""),
        ("sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_"),
    ):
        group = root / folder
        try:
            free = int((group / limit).read_text()) - int((group / used).read_text())
        except (OSError, ValueError):
            continue  # no such control group, or "max"
        found.append(free + _cached_files(group / "memory.stat", prefix))
    return max(min(found), 0) if found else None


def _cached_files(statistics: Path, prefix: str) -> int:
    """Bytes of a control group that the system gives back as soon as others want them.

    They count as used: whoever has read much data would seem to have no memory left.
    """
    names = (f"{prefix}active_file", f"{prefix}inactive_file")
    try:
        lines = [line.split() for line in statistics.read_text().splitlines()]
        return sum(int(value) for name, value in lines if name in names)
    except (OSError, ValueError):
        return 0
