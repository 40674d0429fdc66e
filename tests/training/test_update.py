"""What the updater hands to its device."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from smolvlm2.training.update import INPUTS, Updater


@pytest.mark.parametrize(("kind", "later"), [("cuda", True), ("mps", False)])
def test_only_cuda_may_read_the_loaders_memory_later(monkeypatch, kind, later):
    asked = []

    def array(values):
        return SimpleNamespace(to=lambda device, non_blocking: asked.append(non_blocking))

    # No such device is here: what is asked of it must do.
    monkeypatch.setattr(torch, "from_numpy", array)
    updater = object.__new__(Updater)
    updater.world = SimpleNamespace(device=torch.device(kind))
    updater._on_device(SimpleNamespace(**dict.fromkeys(INPUTS, np.zeros(1))))
    assert asked == [later] * len(INPUTS)
