"""Figures of a plan against ones worked out by hand; what the plan must reach."""

import numpy as np
import pytest

from smolvlm2.plan.cost import CostModel
from smolvlm2.plan.figures import fill, rank_figures, read_steps, spread
from smolvlm2.plan.packs import Capacity
from smolvlm2.plan.plan import Plan

TILES_ONLY = CostModel(tile=1, connector=0, token=0, pair=0, supervised=0)
CAPACITY = Capacity(tokens=100, tiles=10, documents=64)


def steps_of(*tiles):
    packs = np.zeros((1, len(tiles), 4), dtype=np.int64)
    packs[0, :, 0] = tiles
    return packs


def test_useful_time_is_work_over_ranks_times_the_slowest():
    figures = rank_figures(steps_of(10, 5), TILES_ONLY, CAPACITY, ranks=2, frozen=True)
    assert figures.bound == 1
    assert figures.useful == 15 / 20
    assert figures.imbalance == pytest.approx(10 / 7.5)


def test_with_static_shapes_blank_tiles_and_packs_are_paid_for():
    figures = rank_figures(steps_of(5, 5, 5), TILES_ONLY, CAPACITY, ranks=2, frozen=True)
    assert figures.useful == 15 / (2 * 10)
    assert figures.useful_full == 15 / (2 * 20)
    assert figures.bound == 0.75


def test_fill_is_what_is_used_of_the_capacity():
    packs = steps_of(10, 5)
    packs[..., 1] = 50, 100
    assert fill(packs, CAPACITY) == (0.75, 0.75)


def test_spread_is_measured_in_independent_draws():
    draw = np.random.default_rng(0)
    drawn = draw.multinomial(200, [0.2, 0.5, 0.0, 0.3], size=2000)
    found = spread(drawn)
    assert set(found) == {"text", "image", "video"}
    for share, ratio in found.values():
        assert ratio == pytest.approx(1, abs=0.06)
        assert 0.19 < share < 0.51
    assert spread(np.tile([[1, 2, 3, 4]], (5, 1)))["video"] == (0.4, 0.0)


def test_steps_are_summed_up_by_pack_modality_and_source(mixture):
    capacity = Capacity(tokens=8192, tiles=84, documents=64)
    plan = Plan(*mixture, capacity=capacity, packs_per_step=6, window=256, seed=0, epochs=1)
    steps = read_steps(plan, 10_000)
    assert steps.packs.shape[1:] == (6, 4)
    assert steps.packs[..., 0].sum() == steps.by_source["tiles"].sum()
    assert steps.packs[..., 1].sum() == steps.by_source["tokens"].sum()
    assert steps.samples.sum() == steps.by_source["samples"].sum() <= plan.order.length
    assert steps.packs[..., 3].sum() == steps.by_source["loss"].sum() == steps.loss.sum()
    alike = read_steps(plan, 10_000, weigh=np.ones_like)
    assert (alike.by_source["loss"] == steps.by_source["samples"]).all()
    assert (alike.loss == steps.samples.sum(axis=0)).all()
    assert plan.order.length - steps.samples.sum() < 6 * 64  # the short last step


def test_one_pack_a_rank_keeps_97_per_cent_of_the_time_useful(make_table):
    """The figures that the benchmark measures, on a smaller mixture."""
    tables = [make_table(str(code), 1500, code, seed=code) for code in range(4)]
    weights = [20.2, 34.4, 12.3, 33.0]
    capacity = Capacity(tokens=8200, tiles=113, documents=64)
    plan = Plan(tables, weights, capacity=capacity, packs_per_step=32, window=4096, seed=0)
    steps = read_steps(plan, 24)
    for frozen in (True, False):
        figures = rank_figures(steps.packs, plan.cost, capacity, ranks=32, frozen=frozen)
        assert figures.useful > 0.97
        assert figures.imbalance < 1.05
