"""What holds for every plan: random mixtures, capacities, ranks, positions."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from smolvlm2.plan.cost import CostModel
from smolvlm2.plan.packs import Capacity, pack_window
from smolvlm2.plan.plan import Plan, Position, count_steps
from smolvlm2.plan.ranks import packs_of_ranks
from smolvlm2.plan.samples import SourceTable


@st.composite
def sources(draw, most=3, largest=120):
    """Some sources of random samples and their weights."""
    tables, weights = [], []
    for number in range(draw(st.integers(1, most))):
        size = draw(st.integers(1, largest))
        random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
        tiles = random.integers(0, draw(st.integers(1, 20)), size)
        tokens = 1 + tiles * 64 + random.integers(0, draw(st.integers(1, 900)), size)
        tables.append(
            SourceTable(
                name=str(number),
                rows=np.arange(size),
                tiles=tiles.astype(np.int32),
                tokens=tokens.astype(np.int32),
                supervised=(tokens // 7).astype(np.int32),
                messages=np.full(size, 2, dtype=np.int32),
                modality=(tiles > 0).astype(np.uint8),
                excluded={},
            )
        )
        weights.append(draw(st.floats(0.05, 20)))
    return tables, weights


@st.composite
def plans(draw):
    """A plan over random sources, with a capacity that every sample fits."""
    tables, weights = draw(sources())
    tokens = max(int(table.tokens.max()) for table in tables)
    tiles = max(int(table.tiles.max()) for table in tables)
    capacity = Capacity(
        tokens=tokens + draw(st.integers(0, 4000)),
        tiles=max(tiles, 1) + draw(st.integers(0, 60)),
        documents=draw(st.integers(1, 24)),
    )
    return Plan(
        tables,
        weights,
        capacity=capacity,
        packs_per_step=draw(st.integers(1, 9)),
        window=draw(st.integers(1, 200)),
        seed=draw(st.integers(0, 2**40)),
        epochs=draw(st.sampled_from([None, 0.5, 1, 2.25])),
    )


def ids(samples):
    columns = (samples.source, samples.index, samples.epoch)
    return list(zip(*(column.tolist() for column in columns), strict=True))


@settings(max_examples=40, deadline=None)
@given(plans(), st.integers(0, 50))
def test_a_windows_packs_hold_its_samples_once_and_keep_every_capacity(plan, window):
    if plan.windows is not None:
        window %= plan.windows
    packs = plan.pack(window)
    expected = ids(plan.order.samples(window * plan.window, (window + 1) * plan.window))
    assert sorted(sample for pack in packs for sample in ids(pack.samples)) == sorted(expected)
    for pack in packs:
        columns = pack.samples.columns(plan.tables, ("tokens", "tiles", "supervised"))
        assert pack.tokens == columns["tokens"].sum() <= plan.capacity.tokens
        assert pack.tiles == columns["tiles"].sum() <= plan.capacity.tiles
        assert pack.supervised == columns["supervised"].sum()
        assert pack.squared == (columns["tokens"] ** 2).sum()
        assert 1 <= len(pack.samples) <= plan.capacity.documents


@settings(max_examples=25, deadline=None)
@given(plans(), st.data())
def test_a_step_depends_on_its_position_alone(plan, data):
    position, positions = Position(), []
    for _ in range(12):
        if plan.windows is not None and position.window >= plan.windows:
            break
        positions.append(position)
        _, position = plan.step(position)
    start = data.draw(st.sampled_from(positions))
    plan_again = Plan(
        plan.tables,
        plan.order.shares.tolist(),
        capacity=plan.capacity,
        packs_per_step=plan.packs_per_step,
        window=plan.window,
        seed=plan.seed,
        epochs=None,
    )
    plan_again.order = plan.order
    first, second = plan.step(start), plan_again.step(start)
    assert [ids(pack.samples) for pack in first[0]] == [ids(pack.samples) for pack in second[0]]
    assert first[1] == second[1]


@settings(max_examples=25, deadline=None)
@given(sources(largest=60), st.sampled_from([0.3, 1, 2]), st.integers(1, 7), st.integers(15, 90))
def test_a_plan_that_ends_goes_through_every_source_as_often_as_it_says(
    mixture, epochs, packs_per_step, window
):
    tables, weights = mixture
    plan = Plan(
        tables,
        weights,
        capacity=Capacity(tokens=4000, tiles=40, documents=16),
        packs_per_step=packs_per_step,
        window=window,
        seed=1,
        epochs=epochs,
    )
    position, seen, steps = Position(), [], 0
    while position.window < plan.windows:
        packs, position = plan.step(position)
        seen += [sample for pack in packs for sample in ids(pack.samples)]
        steps += 1
    assert steps == count_steps(plan)
    assert len(set(seen)) == len(seen) == plan.order.length
    for number, table in enumerate(tables):
        of_source = [sample for sample in seen if sample[0] == number]
        assert len(of_source) == int(np.ceil(epochs * len(table)))
        for epoch in range(int(epochs)):
            assert sorted(s[1] for s in of_source if s[2] == epoch) == list(range(len(table)))


@settings(max_examples=60, deadline=None)
@given(sources(most=4), st.integers(0, 10**6), st.integers(0, 300))
def test_shares_hold_at_every_position_to_within_a_sample_a_source(mixture, start, count):
    from smolvlm2.plan.order import Order

    tables, weights = mixture
    order = Order(tables, weights, seed=3)
    source = order.samples(start, start + count).source
    assert len(source) == count
    for number, weight in enumerate(weights):
        expected = np.arange(1, count + 1) * weight / sum(weights)
        apart = np.abs((source == number).cumsum() - expected)
        assert apart.max(initial=0) < len(tables) + 1


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(0, 10**15), max_size=60), st.integers(1, 20))
def test_ranks_get_every_pack_once_and_equally_many(costs, ranks):
    shares = packs_of_ranks(costs, ranks)
    assert len(shares) == ranks
    assert len({len(share) for share in shares}) == 1
    real = [pack for share in shares for pack in share if pack is not None]
    assert sorted(real) == list(range(len(costs)))
    for round_number in range(len(shares[0])):
        held = [share[round_number] is not None for share in shares]
        assert held == sorted(held, reverse=True)  # blanks come last, in the last round alone
        assert all(held) or round_number == len(shares[0]) - 1


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 400), st.integers(1, 64))
def test_packing_never_needs_many_more_packs_than_the_sums_demand(seed, count, documents):
    draw = np.random.default_rng(seed)
    tiles = draw.integers(0, 12, count)
    tokens = tiles * 64 + draw.integers(1, 300, count)
    capacity = Capacity(tokens=8000, tiles=100, documents=documents)
    packs = pack_window(tokens, tiles, capacity)
    least = max(tokens.sum() / 8000, tiles.sum() / 100, count / documents)
    assert len(packs) <= np.ceil(least * 1.05) + 1


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_costs_add_up(seed):
    draw = np.random.default_rng(seed)
    columns = draw.integers(0, 1000, (4, 7))
    for frozen in (True, False):
        each = CostModel().cost(*columns, frozen=frozen)
        assert each.sum() == CostModel().cost(*columns.sum(axis=1), frozen=frozen)
