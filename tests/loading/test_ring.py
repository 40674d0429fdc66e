"""Memory that trainer and workers share."""

import multiprocessing
import os
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from smolvlm2.errors import DataError
from smolvlm2.loading.micro_batch import PackShape
from smolvlm2.loading.ring import MIB, Ring, available_memory
from smolvlm2.plan.packs import Capacity

SHAPE = PackShape(
    capacity=Capacity(tokens=100, tiles=3, documents=5), tile_size=8, tokens_per_tile=4
)


def _write(ring, slot):
    ring.buffers(slot).pixel_values[:] = slot + 1
    ring.buffers(slot).input_ids[:] = 7


def test_another_process_writes_what_this_one_reads():
    ring = Ring(SHAPE, 3)
    process = multiprocessing.get_context("spawn").Process(target=_write, args=(ring, 1))
    process.start()
    process.join()
    assert process.exitcode == 0
    assert (ring.buffers(1).pixel_values == 2).all()
    assert (ring.buffers(1).input_ids == 7).all()
    for slot in (0, 2):
        assert not ring.buffers(slot).pixel_values.any()


def test_slots_and_arrays_do_not_overlap():
    ring = Ring(SHAPE, 2)
    arrays = [getattr(ring.buffers(slot), name) for slot in range(2) for name in ring.shape.arrays]
    for array in arrays:
        array[...] = 0
    for number, array in enumerate(arrays):
        assert not array.any()
        assert array.ctypes.data % 64 == 0
        array[...] = number + 1
    assert ring.buffers(0).state.shape == (3,)
    assert sum(array.nbytes for array in arrays) <= ring.size


def test_memory_that_is_not_there_is_an_error_that_says_how_much_is_needed():
    slots = 2**44 // Ring(SHAPE, 1).size
    with pytest.raises(
        DataError,
        match=rf" is too small .* {slots} packs need 16\d{{6}} MiB .* data\.workers=0",
    ):
        Ring(SHAPE, slots)


@pytest.mark.skipif(not Path("/dev/shm").is_dir(), reason="needs /dev/shm")
def test_a_small_dev_shm_is_an_error_where_memory_must_have_a_place(monkeypatch):
    def refuse(name):
        raise PermissionError("not here")

    monkeypatch.setattr(os, "memfd_create", refuse)
    before = os.listdir("/dev/shm")
    ring = Ring(SHAPE, 2)
    assert os.listdir("/dev/shm") == before
    ring.buffers(1).pixel_values[:] = 9
    assert np.asarray(ring.buffers(1).pixel_values).all()
    free = os.statvfs("/dev/shm")
    slots = free.f_blocks * free.f_frsize // ring.size * 3
    with pytest.raises(
        DataError, match=rf"/dev/shm is too small .* {slots} packs .* --shm-size\).*workers=0"
    ):
        Ring(SHAPE, slots)

    def full(handle, offset, size):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(DataError, match=r"/dev/shm is too small .* No space left"):
        Ring(SHAPE, 2)


def test_memory_is_what_the_machine_and_the_control_group_leave(tmp_path):
    assert available_memory(tmp_path) is None
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/meminfo").write_text("MemTotal: 9 kB\nMemAvailable:   2048 kB\n")
    assert available_memory(tmp_path) == 2 * MIB
    group = tmp_path / "sys/fs/cgroup"
    group.mkdir(parents=True)
    (group / "memory.max").write_text("max\n")
    (group / "memory.current").write_text("5\n")
    assert available_memory(tmp_path) == 2 * MIB
    (group / "memory.max").write_text(f"{MIB + 5}\n")
    assert available_memory(tmp_path) == MIB
    (group / "memory.current").write_text(f"{MIB * 9}\n")
    assert available_memory(tmp_path) == 0


@pytest.mark.parametrize(
    ("folder", "limit", "used", "prefix"),
    [
        ("sys/fs/cgroup", "memory.max", "memory.current", ""),
        ("sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_"),
    ],
)
def test_files_that_the_control_group_has_read_are_no_obstacle(
    tmp_path, folder, limit, used, prefix
):
    group = tmp_path / folder
    group.mkdir(parents=True)
    (group / limit).write_text(f"{9 * MIB}\n")
    (group / used).write_text(f"{9 * MIB}\n")
    (group / "memory.stat").write_text(
        f"anon {2 * MIB}\n{prefix}inactive_file {4 * MIB}\n{prefix}active_file {3 * MIB}\nshmem 5\n"
    )
    assert available_memory(tmp_path) == 7 * MIB


def test_memory_that_cannot_be_pinned_leaves_no_error_for_the_next_kernel(monkeypatch, caplog):
    left = []

    def refuse(address, size, flags):
        left.append("out of memory")
        return 2

    def launch(*shape, device):
        if left:
            raise RuntimeError(f"CUDA error: {left.pop()}")

    # CUDA's own behaviour: a refused call is reported once more, behind the next launch.
    monkeypatch.setattr(
        torch.cuda, "cudart", lambda: SimpleNamespace(cudaHostRegister=refuse), raising=True
    )
    monkeypatch.setattr(torch, "ones", launch)
    Ring(SHAPE, 1).pin()
    assert "could not be pinned (CUDA error 2)" in caplog.text
    assert not left
