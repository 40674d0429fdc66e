"""Tables over parts of columns, in memory or mapped."""

import pickle

import numpy as np
import pytest

from smolvlm2.plan.samples import RECORD, Part, Samples, SourceTable, map_records


def part(starts, counts, **options):
    offsets = np.concatenate([[0], np.cumsum(counts)])
    return Part(starts=np.array(starts), offsets=offsets, **options)


def test_a_part_counts_through_its_ranges():
    found = part([10, 100], [3, 4], count=7).places(np.arange(7))
    assert found.tolist() == [10, 11, 12, 100, 101, 102, 103]


def test_the_end_of_a_part():
    assert part([10, 100], [3, 4], first=5, count=2).places(np.arange(2)).tolist() == [102, 103]


def test_ranges_without_samples_are_passed_over():
    assert part([10, 50, 100], [2, 0, 2], count=4).places(np.arange(4)).tolist() == [
        10,
        11,
        100,
        101,
    ]


def test_a_shuffled_part_is_fixed_and_takes_each_place_once():
    whole = part([10, 100], [30, 40], count=70, key=5).places(np.arange(70))
    assert sorted(whole.tolist()) == [*range(10, 40), *range(100, 140)]
    assert part([10, 100], [30, 40], count=7, key=5).places(np.arange(7)).tolist() == list(
        whole[:7]
    )


@pytest.fixture
def mapped(tmp_path):
    records = np.zeros(50, dtype=RECORD)
    records["rows"] = np.arange(50) * 2
    records["tokens"] = np.arange(50) + 7
    np.save(tmp_path / "records.npy", records)
    return SourceTable(
        name="mapped",
        **map_records(tmp_path / "records.npy"),
        excluded={},
        part=part([20], [10], count=10),
        records=tmp_path / "records.npy",
        digest="known",
    )


def test_columns_of_a_part_are_looked_up(mapped):
    assert len(mapped) == 10
    assert mapped.column("rows").tolist() == list(range(40, 60, 2))
    samples = Samples(
        source=np.zeros(2, np.int32), index=np.array([3, 0]), epoch=np.zeros(2, np.int32)
    )
    assert samples.column([mapped], "tokens").tolist() == [30, 27]


def test_a_mapped_table_travels_as_the_name_of_its_file(mapped):
    sent = pickle.dumps(mapped)
    assert len(sent) < 2000
    assert pickle.loads(sent).column("rows").tolist() == mapped.column("rows").tolist()


def test_sums_are_computed_where_they_are_not_known(make_table):
    table = make_table("a", 40, 1)
    assert table.mean("tokens") == pytest.approx(table.tokens.mean())
    assert table.total("max_tiles") == table.tiles.max()


def test_the_hash_depends_on_columns_and_part(mapped, make_table):
    hashes = {mapped.hash(), make_table("a", 5, 1).hash(), make_table("a", 5, 1, seed=1).hash()}
    mapped.part = part([20], [10], count=9)
    hashes.add(mapped.hash())
    mapped.part = part([20], [10], count=9, key=3)
    hashes.add(mapped.hash())
    assert len(hashes) == 5
