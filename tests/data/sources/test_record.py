"""Which split a parquet file belongs to."""

import pytest

from smolvlm2.data.sources.record import split_of


@pytest.mark.parametrize(
    ("file", "split"),
    [
        ("data/train-00000-of-01106.parquet", "train"),
        ("data/test-00000-of-00001-0123abcd.parquet", "test"),
        ("validation.parquet", "validation"),
        ("a/Val_1.parquet", "val"),
        ("shard-00000-of-00009.parquet", "train"),
        ("valuable-00000-of-00009.parquet", "train"),
        ("test/0000.parquet", "train"),
    ],
)
def test_a_split_is_known_by_its_word(file, split):
    assert split_of(file) == split
