"""The command that compares training data with benchmarks."""

import shutil

import pytest

from smolvlm2.cli.contamination import find_contamination
from smolvlm2.errors import DataNotFoundError


def test_sources_are_compared_and_told_in_a_table(looked_at, tmp_path, capsys):
    data = tmp_path / "data"
    shutil.copytree(looked_at / "data", data)
    bench = data / "raw" / "odd"  # as if a benchmark had been made of the same pages
    (bench / "bad.zip").write_bytes(
        (data / "raw/demo__m4_digits/DigitPairs.zip").read_bytes()[-200:]
    )
    found = find_contamination(["text_digits", "odd_pages"], [bench], data, workers=0)
    assert [len(each.contaminated) for each in found] == [0, 4]
    printed = capsys.readouterr()
    lines = [line.split() for line in printed.out.splitlines()]
    assert ["odd_pages", "4", "4", "4", "0", "0", "0", "4"] in lines
    assert "odd/diagrams/train-00000-of-00001.parquet: row 0, images" in printed.out
    assert "warning: odd/bad.zip" in printed.err
    for name in ("text_digits", "odd_pages"):
        assert (data / "prepared" / name / "contamination.json").is_file()


def test_a_source_that_is_not_prepared_is_named(looked_at, tmp_path):
    with pytest.raises(DataNotFoundError, match="smolvlm2 prepare missing"):
        find_contamination(["missing"], [tmp_path], looked_at / "data", workers=0)
