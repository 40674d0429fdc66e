"""Which rank gets which pack, and when a number of ranks is refused."""

import pytest

from smolvlm2.errors import PlanError
from smolvlm2.plan.ranks import check_ranks, packs_of_ranks, useful_bound


def test_pack_j_goes_to_rank_j_mod_r_costliest_first():
    assert packs_of_ranks([5, 9, 1, 7], 2) == [[1, 0], [3, 2]]


def test_blank_packs_fill_the_last_round():
    assert packs_of_ranks([3, 2, 1], 2) == [[0, 2], [1, None]]


def test_packs_of_equal_cost_keep_their_order():
    assert packs_of_ranks([4, 4, 4, 4], 4) == [[0], [1], [2], [3]]


def test_the_bound_on_useful_time():
    assert useful_bound(32, 8) == 1
    assert useful_bound(33, 8) == pytest.approx(33 / 40)
    assert useful_bound(3, 2) == 0.75


def test_more_ranks_than_packs_are_refused():
    with pytest.raises(PlanError, match="64 ranks for 32 packs a step: 32 would never have work"):
        check_ranks(32, 64)
    with pytest.raises(PlanError, match=r"2 ranks for 1 pack a step: .* at most 1 rank, or a smal"):
        check_ranks(1, 2)


def test_idle_ranks_are_warned_of_with_a_way_out():
    warning = check_ranks(33, 16)
    assert warning is not None
    assert (
        "33 packs a step on 16 ranks leave 31% of their time idle; 11 ranks would leave none"
        in warning
    )
    assert check_ranks(32, 16) is None
    assert check_ranks(39, 8) is None
