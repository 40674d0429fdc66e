"""The order is a function of (seed, position): shares hold, every row comes once an epoch."""

import numpy as np
import pytest

from smolvlm2.errors import PlanError
from smolvlm2.plan.order import Order


def test_any_cut_gives_the_same_sequence(mixture):
    order = Order(*mixture, seed=0)
    whole = order.samples(0, 5000)
    for start, stop in ((0, 1), (17, 400), (4096, 5000), (4999, 5000)):
        part = order.samples(start, stop)
        for name in ("source", "index", "epoch"):
            assert np.array_equal(getattr(part, name), getattr(whole, name)[start:stop])


def test_shares_hold_at_every_prefix_to_within_two_samples(mixture):
    tables, weights = mixture
    source = Order(tables, weights, seed=0).samples(0, 6000).source
    for index, weight in enumerate(weights):
        expected = np.arange(1, 6001) * weight / sum(weights)
        assert np.abs((source == index).cumsum() - expected).max() < 2


def test_extreme_weights_keep_their_shares(make_table):
    tables = [make_table(str(index), 50, 1) for index in range(30)]
    weights = [10.0**-index for index in range(3)] * 10
    order = Order(tables, weights, seed=0)
    source = order.samples(0, 20000).source
    counts = np.bincount(source, minlength=30)
    assert np.abs(counts - 20000 * np.array(weights) / sum(weights)).max() < 2
    late = order.samples(1_000_000, 1_000_100)
    assert len(late) == 100


def test_each_source_visits_every_row_once_per_epoch(mixture):
    tables, weights = mixture
    samples = Order(tables, weights, seed=0).samples(0, 8000)
    for index, table in enumerate(tables):
        here = samples.source == index
        for epoch in range(samples.epoch[here].max()):
            rows = samples.index[here & (samples.epoch == epoch)]
            assert sorted(rows.tolist()) == list(range(len(table)))


def test_epochs_and_seeds_have_their_own_order(mixture):
    samples = Order(*mixture, seed=0).samples(0, 8000)
    other = Order(*mixture, seed=1).samples(0, 8000)
    multi = samples.index[samples.source == 3]
    assert not np.array_equal(multi[:130], multi[130:260])
    assert not np.array_equal(samples.index, other.index)
    assert np.array_equal(samples.source, other.source)


def test_mixtures_that_cannot_be_sampled_are_rejected(make_table):
    with pytest.raises(PlanError, match="has no sources"):
        Order([], [], seed=0)
    with pytest.raises(PlanError, match="'a' has weight 0"):
        Order([make_table("a", 5, 0)], [0], seed=0)
    tables = [make_table("a", 5, 0), make_table("b", 5, 0)]
    for weights in ([1e-320, 1.0], [1e308, 1e308]):
        with pytest.raises(PlanError, match=r"'a' has weight 1e.* expected a positive share"):
            Order(tables, weights, seed=0, epochs=1)
    empty = make_table("a", 0, 0)
    empty.excluded = {"too_long": 3}
    with pytest.raises(PlanError, match=r"no samples left under this recipe \(left out: 3 too_l"):
        Order([empty], [1], seed=0)


def test_sources_end_after_their_epochs_and_the_others_go_on(mixture):
    tables, weights = mixture
    order = Order(tables, weights, seed=0, epochs=1.5)
    assert order.length == sum(int(np.ceil(1.5 * len(table))) for table in tables)
    whole = order.samples(0, order.length + 500)
    assert len(whole) == order.length
    endless = Order(tables, weights, seed=0).samples(0, 400)
    assert np.array_equal(whole.source[:400], endless.source)
    assert np.array_equal(whole.index[:400], endless.index)
    for start, stop in ((900, 950), (order.length - 30, order.length + 5)):
        cut = order.samples(start, stop)
        assert np.array_equal(cut.index, whole.index[start:stop])
        assert np.array_equal(cut.source, whole.source[start:stop])
    counts = np.bincount(whole.source)
    assert counts.tolist() == [int(np.ceil(1.5 * len(table))) for table in tables]


def test_a_fraction_of_an_epoch_is_exact(make_table):
    assert Order([make_table("a", 1000, 1)], [1], seed=0, epochs=0.29).length == 290
