"""Where the time of a step goes."""

import time

import pytest
import torch

from smolvlm2.training.step_clock import StepClock

PARTS = ("vision_seconds", "text_seconds", "optimizer_seconds")


SLOW = 0.3
"""Seconds."""


def slow(*_):
    """Take a while, busily."""
    end = time.perf_counter() + SLOW
    while time.perf_counter() < end:
        pass


def slow_gradient(module, inputs, output):
    """Take a while when the gradient of a module's output is there."""
    output.register_hook(slow)


@pytest.fixture
def trainer(make_trainer, tmp_path):
    settings = ("freeze_vision_encoder=false", "unfreeze_vision_after_steps=null", "max_steps=2")
    return make_trainer(tmp_path / "run", *[f"training.{setting}" for setting in settings])


def test_the_parts_of_a_step_make_up_its_time(trainer):
    lines = []
    trainer.progress = lines.append
    trainer.train()
    for line in lines:
        parts = [line[name] for name in (*PARTS, "load_seconds", "wait_seconds")]
        assert all(seconds >= 0 for seconds in parts)
        assert 0.7 * line["seconds"] < sum(parts) <= line["seconds"] + 0.001
        assert line["vision_seconds"] > 0 < line["text_seconds"]


@pytest.mark.parametrize("direction", ["forward", "backward"])
@pytest.mark.parametrize(
    ("part", "slowed"), [("vision_seconds", "vision_encoder"), ("text_seconds", "text_decoder")]
)
def test_a_slow_part_is_found_in_both_directions(trainer, part, slowed, direction):
    module = getattr(trainer.model, slowed)
    if direction == "forward":
        module.register_forward_pre_hook(slow)
    else:
        module.register_forward_hook(slow_gradient)
    lines = []
    trainer.progress = lines.append
    trainer.train()
    packs = trainer.plan.packs_per_step
    other = next(name for name in PARTS[:2] if name != part)
    for line in lines:
        assert line[part] >= SLOW * packs
        assert line[other] < SLOW * packs


class FakeEvent:
    """A moment on a device's stream, passed or not."""

    def __init__(self, at: float, passed: bool) -> None:
        self.at, self.passed = at, passed

    def query(self) -> bool:
        return self.passed

    def elapsed_time(self, end: "FakeEvent") -> float:
        return end.at - self.at


def test_what_a_gpu_has_not_got_through_counts_in_the_next_line():
    clock = StepClock(torch.device("cuda"))
    begun, under_way = FakeEvent(3000, passed=True), FakeEvent(5000, passed=False)
    clock._marks = [
        ("vision", FakeEvent(0, passed=True)),
        ("text", FakeEvent(1000, passed=True)),
        (None, FakeEvent(2500, passed=True)),
        ("optimizer", begun),
        (None, under_way),
    ]
    assert clock.take() == {"vision_seconds": 1, "text_seconds": 1.5, "optimizer_seconds": 0}
    under_way.passed = True
    assert clock.take() == {"vision_seconds": 0, "text_seconds": 0, "optimizer_seconds": 2}
    assert clock.take() == dict.fromkeys(PARTS, 0)


def test_a_device_whose_host_runs_ahead_tells_no_parts():
    clock = StepClock(torch.device("mps"))
    with clock.during("optimizer"):
        pass
    assert clock.take() == dict.fromkeys(PARTS)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_events_are_read_without_waiting():
    clock = StepClock(torch.device("cuda"))
    matrix = torch.randn(4096, 4096, device="cuda")
    for _ in range(2):
        with clock.during("vision"):
            for _ in range(200):
                matrix = matrix @ matrix / 64
        early = clock.take()["vision_seconds"]
        torch.cuda.synchronize()
        assert clock.take()["vision_seconds"] > early
