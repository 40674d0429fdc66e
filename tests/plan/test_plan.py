"""Plan invariants: capacities, nothing lost or doubled, bounded spread, O(1) state."""

import numpy as np
import pytest

from smolvlm2.errors import ConfigError, PlanError
from smolvlm2.plan.deal import deal
from smolvlm2.plan.packs import Capacity, PackSettings, capacity_for, pack_window
from smolvlm2.plan.plan import Plan, Position, packs_for

CAPACITY = Capacity(tokens=8192, tiles=84, documents=64)


@pytest.fixture
def make_plan(mixture):
    def make(*, packs_per_step=4, window=512, seed=0, capacity=CAPACITY):
        return Plan(
            *mixture, capacity=capacity, packs_per_step=packs_per_step, window=window, seed=seed
        )

    return make


def references(pack):
    return list(
        zip(
            pack.samples.source.tolist(),
            pack.samples.index.tolist(),
            pack.samples.epoch.tolist(),
            strict=True,
        )
    )


def test_packs_of_a_window_hold_its_samples_once_and_keep_capacities(make_plan):
    plan = make_plan()
    for window in (0, 3):
        packs = plan.packs_of_window(window)
        expected = plan.order.samples(window * 512, (window + 1) * 512)
        found = sorted(reference for pack in packs for reference in references(pack))
        assert found == sorted(zip(expected.source, expected.index, expected.epoch, strict=True))
        for pack in packs:
            assert pack.tokens <= CAPACITY.tokens
            assert pack.tiles <= CAPACITY.tiles
            assert len(pack.samples) <= CAPACITY.documents
            assert pack.tokens == pack.samples.column(plan.tables, "tokens").sum()
            assert pack.tiles == pack.samples.column(plan.tables, "tiles").sum()


def test_packs_are_well_filled(make_plan):
    packs = make_plan(window=2048).packs_of_window(0)
    tiles = np.mean([pack.tiles / CAPACITY.tiles for pack in packs])
    tokens = np.mean([pack.tokens / CAPACITY.tokens for pack in packs])
    assert max(tiles, tokens) > 0.95


def test_a_step_is_a_function_of_its_position(make_plan):
    plan, position, seen = make_plan(), Position(), []
    for _ in range(60):
        seen.append(position)
        packs, position = plan.step(position)
        assert len(packs) == 4
    fresh = make_plan()
    packs, _ = fresh.step(seen[41])
    expected, _ = plan.step(seen[41])
    assert [references(pack) for pack in packs] == [references(pack) for pack in expected]
    assert max(position.window for position in seen) > 1


def test_consecutive_steps_use_every_pack_once(make_plan):
    plan, position, used = make_plan(packs_per_step=5), Position(), []
    while position.window < 3:
        packs, position = plan.step(position)
        used += [reference for pack in packs for reference in references(pack)]
    whole = [
        reference
        for window in range(4)
        for pack in plan.packs_of_window(window)
        for reference in references(pack)
    ]
    assert used == whole[: len(used)]
    assert len(set(used)) == len(used)


def test_modality_shares_of_a_step_spread_like_independent_draws(make_plan, mixture):
    """At most 1.5 times as wide; a plain shuffle of the packs is wider."""
    plan, shares, position = make_plan(packs_per_step=16, window=2048), [], Position()
    sizes = []
    for _ in range(60):
        packs, position = plan.step(position)
        source = np.concatenate([pack.samples.source for pack in packs])
        sizes.append(len(source))
        shares.append(np.bincount(source, minlength=4) / len(source))
    expected = np.array(mixture[1]) / sum(mixture[1])
    independent = np.sqrt(expected * (1 - expected) / np.mean(sizes))
    assert (np.std(shares, axis=0) <= 1.5 * independent).all()


def test_the_deal_is_a_permutation_that_depends_on_seed_and_window():
    features = np.random.default_rng(0).integers(1, 60, (300, 5))
    features[:, 4] = 7
    orders = [deal(features, seed=s, window=w) for s, w in ((0, 0), (1, 0), (0, 1))]
    for order in orders:
        assert sorted(order.tolist()) == list(range(300))
    assert not np.array_equal(orders[0], orders[1])
    assert not np.array_equal(orders[0], orders[2])


def test_the_digest_depends_on_lengths_seed_and_capacity(make_plan, mixture):
    digests = {make_plan().digest(), make_plan(seed=1).digest(), make_plan(window=256).digest()}
    mixture[0][0].tokens[5] += 1
    digests.add(make_plan().digest())
    assert len(digests) == 4


def test_a_sample_larger_than_a_pack_is_rejected():
    with pytest.raises(PlanError, match="a sample has 90 tiles and a pack holds 84; raise"):
        pack_window(np.array([100, 10]), np.array([90, 1]), CAPACITY)
    with pytest.raises(PlanError, match="a sample has 9000 tokens"):
        pack_window(np.array([9000]), np.array([1]), CAPACITY)


def test_the_document_limit_holds():
    packs = pack_window(np.full(100, 2), np.zeros(100, dtype=np.int64), CAPACITY)
    assert [len(pack) for pack in packs] == [50, 50]


def test_the_default_capacity_holds_the_batch_and_the_largest_sample():
    tokens, tiles = np.array([100, 200, 300]), np.array([1, 2, 30])
    capacity = capacity_for(PackSettings(), samples_per_pack=2, tokens=tokens, tiles=tiles)
    assert (capacity.tokens, capacity.tiles) == (400, 30)
    given = capacity_for(PackSettings(tokens=999), samples_per_pack=2, tokens=tokens, tiles=tiles)
    assert (given.tokens, given.tiles) == (999, 30)


def test_packs_per_step_follow_the_batch():
    assert packs_for(256, 7.7) == 33
    assert packs_for(3, 60.0) == 1


def test_settings_out_of_range_are_rejected():
    with pytest.raises(ConfigError, match=r"pack\.window is 0"):
        PackSettings(window=0)


def test_packs_weigh_alike_in_every_measure(make_plan, mixture):
    plan = make_plan(window=2048)
    packs = plan.packs_of_window(0)
    columns = [np.array([getattr(pack, n) for pack in packs]) for n in ("tiles", "tokens")]
    for values in columns:
        assert values.max() / values.mean() < 1.04
        assert values.min() / values.mean() > 0.96


def test_dealing_has_no_favourites():
    """A pack that nothing levels out must not always come last."""
    features = np.random.default_rng(0).integers(10, 20, (60, 3))
    features[7] = 500
    places = [int(np.flatnonzero(deal(features, seed=0, window=w) == 7)[0]) for w in range(200)]
    assert 20 < np.mean(places) < 40
    assert np.std(places) > 10


def test_the_default_capacity_is_raised_for_costly_samples():
    tokens, tiles = np.full(1000, 100), np.full(1000, 2)
    costs = np.ones((1000, 1), dtype=np.int64)
    costs[:20] = 20
    mean = costs.mean()
    capacity = capacity_for(
        PackSettings(), samples_per_pack=4, tokens=tokens, tiles=tiles, costs=costs
    )
    assert capacity.tokens == int(np.ceil(2 * 20 / mean * 100))
    costs[1:] = 1  # one in a thousand may cost what it likes
    capacity = capacity_for(
        PackSettings(), samples_per_pack=4, tokens=tokens, tiles=tiles, costs=costs
    )
    assert (capacity.tokens, capacity.tiles) == (400, 8)


def test_samples_too_large_to_share_out_evenly_are_packed_tightly():
    draw = np.random.default_rng(0)
    tiles = draw.integers(20, 60, 300)
    packs = pack_window(tiles * 64 + 50, tiles, CAPACITY)
    assert sorted(np.concatenate(packs).tolist()) == list(range(300))
    assert max(tiles[pack].sum() for pack in packs) <= CAPACITY.tiles
    assert len(packs) < 1.15 * tiles.sum() / CAPACITY.tiles


def test_a_plan_that_ended_says_how_to_go_on(mixture):
    plan = Plan(*mixture, capacity=CAPACITY, packs_per_step=4, window=512, seed=0, epochs=1)
    with pytest.raises(PlanError, match="the plan ends after 5 windows, before window 5"):
        plan.step(Position(window=5))
