"""A keyed shuffle is a bijection, differs by key, and spreads."""

import numpy as np
import pytest

from smolvlm2.plan.permutation import derive_key, permute


@pytest.mark.parametrize("size", [1, 2, 3, 7, 64, 1000, 4097])
def test_every_index_is_hit_once(size):
    found = permute(np.arange(size), size, derive_key(0, size))
    assert sorted(found.tolist()) == list(range(size))


def test_one_index_can_be_asked_for_alone():
    whole = permute(np.arange(1000), 1000, 7)
    assert permute(np.array([123]), 1000, 7)[0] == whole[123]


def test_keys_give_different_and_well_spread_orders():
    first, second = (permute(np.arange(5000), 5000, derive_key(0, 0, e)) for e in (0, 1))
    assert (first == second).mean() < 0.01
    assert abs(np.corrcoef(np.arange(5000), first)[0, 1]) < 0.05
    assert abs(np.corrcoef(first, second)[0, 1]) < 0.05
    gaps = np.abs(np.diff(first))
    assert gaps.mean() == pytest.approx(5000 / 3, rel=0.05)


def test_derived_keys_depend_on_every_part_and_their_order():
    keys = {derive_key(*parts) for parts in ((0, 1, 2), (2, 1, 0), (0, 1, 3), (0, 1), (1, 2))}
    assert len(keys) == 5
