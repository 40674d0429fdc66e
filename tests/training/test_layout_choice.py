"""What is done to a model before it is spread over the ranks."""

from types import SimpleNamespace

import pytest
import torch

from smolvlm2.training import layout_choice
from smolvlm2.training.adapters import AdapterSettings
from smolvlm2.training.randomness import PackRandomness
from smolvlm2.training.training_settings import TrainingSettings


def test_kernels_are_chosen_before_adapters_compute_their_first_products(monkeypatch):
    done = []

    def attach(*_):
        done.append("adapters")
        raise KeyboardInterrupt  # the rest is not looked at

    def choose(device):
        done.append(str(device))

    monkeypatch.setattr(layout_choice, "choose_deterministic_kernels", choose)
    monkeypatch.setattr(layout_choice, "attach_adapters", attach)
    training = TrainingSettings(deterministic=True, adapters=AdapterSettings())
    with pytest.raises(KeyboardInterrupt):
        layout_choice.lay_out_model(
            SimpleNamespace(config=None),
            SimpleNamespace(training=training),
            None,
            SimpleNamespace(device=torch.device("cuda", 0)),
            PackRandomness(),
        )
    assert done == ["cuda:0", "adapters"]
