"""Packs on their way to the device."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from smolvlm2.loading.micro_batch import PackBuffers, PackShape
from smolvlm2.plan.packs import Capacity
from smolvlm2.training.pack_copies import INPUTS, PackCopies


@pytest.mark.parametrize(("kind", "later"), [("cuda", True), ("mps", False)])
def test_only_cuda_may_read_the_loaders_memory_later(monkeypatch, kind, later):
    asked = []

    def array(values):
        return SimpleNamespace(to=lambda device, non_blocking: asked.append(non_blocking))

    # No such device is here: what is asked of it must do.
    monkeypatch.setattr(torch, "from_numpy", array)
    copies = object.__new__(PackCopies)
    copies._device, copies._stream = torch.device(kind), None
    copies.send(SimpleNamespace(**dict.fromkeys(INPUTS, np.zeros(1))))
    assert asked == [later] * len(INPUTS)


@pytest.fixture
def packs():
    """Two packs in pinned memory, and what they hold."""
    shape = PackShape(
        capacity=Capacity(tokens=512, tiles=8, documents=4), tile_size=64, tokens_per_tile=16
    )
    packs = []
    for number in range(2):
        buffers = PackBuffers.allocate(shape)
        arrays = {}
        for name in INPUTS:
            values = getattr(buffers, name)
            pinned = torch.empty(values.shape, dtype=torch.from_numpy(values).dtype).pin_memory()
            arrays[name] = pinned.fill_(number + 1).numpy()
        packs.append(SimpleNamespace(**arrays))
    return packs


@pytest.mark.gpu
def test_packs_that_are_sent_behind_the_one_that_is_computed_arrive_whole(packs):
    copies = PackCopies(torch.device("cuda"))
    behind, sums = copies.send(packs[0]), []
    for turn in range(20):
        sent, inputs = behind, behind.arrive()
        behind = copies.send(packs[(turn + 1) % 2])
        torch.cuda._sleep(10**6)
        sums.append(inputs["pixel_values"].float().mean())
        sent.wait()
    assert [value.item() for value in sums] == [1 + turn % 2 for turn in range(20)]
