"""Planner and loader give a sample the same budget of tiles."""

from dataclasses import replace

import numpy as np
import pytest

from smolvlm2.errors import DataError
from smolvlm2.plan.samples import Samples
from smolvlm2.processing.tile_budgets import tile_budgets

RANDOM = ("image.random_tiles=true", "image.longest_edge=96", "image.upscale=always")
TILES = np.array([1, 5, 10])
"""Of a square image one, two and three tiles wide."""


@pytest.fixture(scope="module")
def drawn(make_reader):
    return make_reader(*RANDOM)


def single_images(table):
    """Samples of one square picture; the table is a whole source, entries in order."""
    return np.flatnonzero((table.tiles.reshape(-1, 3) == TILES).all(axis=1))


def test_what_is_loaded_is_what_was_planned(drawn):
    data, reader = drawn
    edges = set()
    for pack in data.plan.packs_of_window(0):
        planned = reader.planned(pack)
        batch, skips = reader.read(pack)  # a sample of another length is an error
        assert not skips
        assert batch.tiles == sum(plan.tiles for plan in planned)
        edges |= {plan.longest_edge for plan in planned}
    assert edges == {32, 64, 96}


def test_a_reader_that_forgets_the_budgets_is_caught(drawn):
    data, reader = drawn
    pack = next(
        pack
        for pack in data.plan.packs_of_window(0)
        if any(plan.longest_edge == 32 and plan.tiles for plan in reader.planned(pack))
    )
    forgetful = replace(reader)
    forgetful.planned = lambda pack: [
        plan._replace(longest_edge=None) for plan in reader.planned(pack)
    ]
    with pytest.raises(DataError):
        forgetful.read(pack)


def test_budgets_come_as_often_as_their_chances_and_change_with_the_epoch(drawn):
    data, _ = drawn
    table = data.tables[0]
    index = np.resize(single_images(table), 30_000)
    epoch = np.arange(len(index), dtype=np.int32)
    samples = Samples(source=np.zeros(len(index), np.int32), index=index, epoch=epoch)
    found = samples.budgets(data.tables)
    shares = np.bincount(found, minlength=3) / len(found)
    assert shares == pytest.approx([0.5, 0.3, 0.2], abs=0.02)
    assert samples.column(data.tables, "tiles").tolist() == TILES[found].tolist()
    one = index == index[0]
    assert len(set(found[one].tolist())) == 3


def test_draws_are_fixed_by_the_seed(drawn, make_reader):
    data, _ = drawn
    index = np.arange(len(data.tables[0]))

    def budgets(tables):
        return tables[0].budgets(index, 0).tolist()

    again, other = (make_reader(*RANDOM, f"training.seed={seed}")[0] for seed in (42, 43))
    assert budgets(data.tables) == budgets(again.tables)
    assert budgets(data.tables) != budgets(other.tables)
    assert data.plan.digest() != other.plan.digest()


def test_means_are_those_expected_and_the_largest_decides_capacity(drawn):
    data, reader = drawn
    table = data.tables[0]
    many = Samples(
        source=np.zeros(20_000, np.int32),
        index=np.resize(np.arange(len(table)), 20_000),
        epoch=np.arange(20_000, dtype=np.int32),
    )
    tiles = many.column(data.tables, "tiles")
    assert table.mean("tiles") == pytest.approx(tiles.mean(), rel=0.03)
    assert table.total("max_tiles") == tiles.max()
    assert len(tile_budgets(reader.processor.image, 32).edges) == 3
