"""What the log says of a step beside its times."""

import math

import numpy as np
import pytest

from smolvlm2.plan.cost import CostModel
from smolvlm2.plan.packs import Capacity
from smolvlm2.training.estimate import GPUS, peak_flops
from smolvlm2.training.exchange import Loaded, LoadedPack, StepFacts, StepLoss
from smolvlm2.training.step_line import StepLine

COST = CostModel(tile=100, connector=9, token=5, pair=1, supervised=7)


def pack(tiles: int, *lengths: int, supervised: int = 2) -> LoadedPack:
    return LoadedPack(
        sample_ids=[str(number) for number in lengths],
        weight=float(supervised),
        tokens=sum(lengths),
        tiles=tiles,
        squared=sum(length**2 for length in lengths),
        supervised=supervised,
    )


def facts(*ranks: list[LoadedPack]) -> StepFacts:
    number = iter(range(10))
    return StepFacts.of([Loaded(packs={next(number): each for each in packs}) for packs in ranks])


def step_line(peak: float | None = 1000.0) -> StepLine:
    capacity = Capacity(tokens=20, tiles=4, documents=4)
    return StepLine(capacity=capacity, cost=COST, peak=peak)


def test_useful_flops_follow_the_formulas():
    # Encoder forward and backward or forward alone; the connector's input needs no gradient then.
    decoder = 14 * 5 + 100 * 1 + 3 * 7
    assert COST.useful_flops(2, 14, 100, 3, frozen=False) == 2 * (300 + 9) + decoder
    assert COST.useful_flops(2, 14, 100, 3, frozen=True) == 2 * (100 + 6) + decoder


def test_rates_count_what_is_there_and_not_what_fits():
    one = facts([pack(2, 6, 8)])
    rates = step_line().rates(one, 0.5, frozen=True)
    useful = COST.useful_flops(2, 14, 100, 2, frozen=True)
    assert rates == {
        "tokens_per_second": 28,
        "tiles_per_second": 4.0,
        "mfu": pytest.approx(useful / 0.5 / 1000, abs=1e-4),
    }
    assert step_line(peak=None).rates(one, 0.5, frozen=True)["mfu"] is None


def test_imbalance_is_the_costliest_rank_over_the_mean():
    line = step_line()
    assert line.imbalance(facts([pack(2, 6)], [pack(2, 6)]), frozen=False) == 1
    assert line.imbalance(facts([pack(2, 6)], []), frozen=False) == 2
    assert line.imbalance(facts([pack(0)]), frozen=False) > 0
    assert line.imbalance(facts([], []), frozen=False) == 1


def test_fill_is_of_the_capacity_of_all_packs():
    loss = StepLoss(losses=[4.0, 2.0], by_modality=np.array([[6.0, 4.0], [0, 0], [0, 0], [0, 0]]))
    two = facts([pack(2, 6), pack(1, 10)])
    numbers = step_line().numbers(two, loss, 1.5, frozen=True, updated=True)
    assert numbers["fill_tokens"] == 0.4
    assert numbers["fill_tiles"] == 0.375
    assert numbers["loss"] == 1.5
    assert numbers["loss_by_modality"] == {"text": 1.5}
    left_out = step_line().numbers(two, loss, math.nan, frozen=True, updated=False)
    assert left_out["loss"] is left_out["gradient_norm"] is None
    assert left_out["nonfinite"]


def test_a_loaded_pack_knows_its_documents_lengths(make_trainer, tmp_path):
    trainer = make_trainer(tmp_path / "run")
    packs, _ = trainer.plan.step(trainer.state.position)
    for planned in packs:
        found = LoadedPack.of(trainer.reader.read(planned)[0])
        assert (found.tokens, found.tiles) == (planned.tokens, planned.tiles)
        assert (found.squared, found.supervised) == (planned.squared, planned.supervised)


@pytest.mark.parametrize(
    ("device", "gpu"),
    [
        ("NVIDIA H100 80GB HBM3", "h100"),
        ("NVIDIA H200", "h200"),
        ("NVIDIA A100-SXM4-40GB", "a100-40"),
        ("A100-SXM4-80GB", "a100-40"),
        ("NVIDIA A100 80GB PCIe", "a100-40"),
        ("NVIDIA GeForce RTX 4090", "rtx4090"),
    ],
)
def test_the_peak_is_that_of_the_device(device, gpu):
    assert peak_flops(device) == GPUS[gpu].peak * 1e12


@pytest.mark.parametrize(
    "device",
    [
        "Some GPU",
        "NVIDIA GeForce RTX 4090 Laptop GPU",
        "NVIDIA GeForce RTX 4090 D",
        "NVIDIA H100 PCIe",
        "NVIDIA H200 NVL",
        "NVIDIA GH200 480GB",
        "NVIDIA H100 80GB HBM3 MIG 3g.40gb",
    ],
)
def test_a_device_that_is_not_known_to_the_letter_has_no_peak(device):
    assert peak_flops(device) is None
