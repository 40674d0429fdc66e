"""What follows from the words of all ranks."""

import math

import numpy as np

from smolvlm2.errors import DataError
from smolvlm2.training.exchange import (
    Computed,
    Loaded,
    LoadedPack,
    StepFacts,
    StepLoss,
    name_samples,
    suspects,
)


def pack(name, weight=1.0):
    return LoadedPack(sample_ids=[name], weight=weight, tokens=3, tiles=1)


def computed(losses):
    return Computed(losses=losses, by_modality=np.array([[0.0, 0], [2.0, 1], [0, 0], [0, 0]]))


def test_packs_are_put_in_the_plans_order_whoever_loaded_them():
    one = StepFacts.of([Loaded(packs={n: pack(str(n), 0.1 * n) for n in range(4)})])
    two = StepFacts.of(
        [
            Loaded(packs={3: pack("3", 0.1 * 3), 0: pack("0", 0.0)}),
            Loaded(packs={2: pack("2", 0.1 * 2), 1: pack("1", 0.1)}),
        ]
    )
    assert two.chain("x") == one.chain("x") != one.chain("y")
    assert two.divisor == one.divisor  # the same bits, not only close
    assert (two.samples, one.samples) == (4, 4)


def test_one_wish_to_stop_and_one_failure_count_for_all():
    facts = StepFacts.of([Loaded(written=True), Loaded(stop="time", failure=DataError("gone"))])
    assert (facts.stop, str(facts.failure), facts.written) == ("time", "gone", False)
    assert StepFacts.of([Loaded(written=True)] * 2).written


def test_losses_are_added_up_over_ranks():
    loss = StepLoss.of([computed({1: 2.0}), computed({0: 1.0, 2: 4.0})])
    assert loss.losses == [1.0, 2.0, 4.0]
    assert loss.total == 7.0
    assert loss.means() == {"image": 2.0}


def test_the_samples_of_a_bad_pack_are_suspected_and_without_one_all():
    facts = StepFacts.of([Loaded(packs={n: pack(f"s{n}") for n in range(3)})])
    bad = StepLoss.of([computed({0: 1.0, 1: math.nan, 2: 1.0})])
    assert suspects(facts, bad) == ["s1"]
    fine = StepLoss.of([computed({0: 1.0, 1: 1.0, 2: 1.0})])
    assert suspects(facts, fine) == ["s0", "s1", "s2"]
    assert name_samples([str(n) for n in range(10)]).endswith("6, 7 and 2 more")
