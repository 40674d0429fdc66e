"""What fits into a number of gigabytes."""

import pytest

from smolvlm2.data.download.budget import archive_set, within_budget
from smolvlm2.data.download.record import RemoteFile


def remote(local: str, size: int, source: str = "a") -> RemoteFile:
    return RemoteFile(
        source=source,
        hub_id="o/n",
        commit="c",
        path=local,
        local=local,
        size=size,
        sha256=None,
        blob_id="b",
    )


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("dreamsim_split.z01", "dreamsim_split.zip"),
        ("x/y.tar.gz.partaa", "x/y.tar.gz.partab"),
        ("y.tar.gz.aa", "y.tar.gz.ab"),
        ("y.tar.001", "y.tar.012"),
        ("y.zip.001", "y.zip.002"),
    ],
)
def test_parts_of_a_split_archive_belong_together(first, second):
    assert archive_set(first) == archive_set(second)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("videos_1.tar.gz", "videos_2.tar.gz"),
        ("a/x.z01", "b/x.z01"),
        ("train-00000-of-00002.parquet", "train-00001-of-00002.parquet"),
        ("jsons/1.json", "jsons/2.json"),
    ],
)
def test_archives_that_stand_alone_do_not(first, second):
    assert archive_set(first) != archive_set(second)


def test_files_are_taken_in_order_until_the_budget_is_spent():
    files = [remote("1.json", 10), remote("2.tar", 60), remote("3.tar", 60), remote("4.tar", 30)]
    taken, left_out = within_budget(files, 100)
    assert [file.local for file in taken] == ["1.json", "2.tar", "4.tar"]
    assert [file.local for file in left_out] == ["3.tar"]


def test_half_a_split_archive_is_never_taken():
    files = [remote("s.z01", 50), remote("s.z02", 50), remote("s.zip", 1), remote("t.zip", 40)]
    taken, left_out = within_budget(files, 100)
    assert [file.local for file in taken] == ["t.zip"]
    assert len(left_out) == 3


def test_equal_names_of_two_sources_are_two_sets():
    taken, left_out = within_budget([remote("x.zip", 60), remote("x.zip", 60, "b")], 100)
    assert [file.source for file in taken] == ["a"]
    assert [file.source for file in left_out] == ["b"]
