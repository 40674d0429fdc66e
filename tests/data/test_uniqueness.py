"""Duplicates and ids, against the plain way with sets."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smolvlm2.data.part_files import KEY_TYPE
from smolvlm2.data.uniqueness import FileKeys, SampleKeys, id_hash

NAMES = st.sampled_from(["a", "b", "a~2", "a~3", "a~2~2", "c"])


def keys_of(samples):
    """Keys of (content, id) pairs."""
    keys = np.zeros(len(samples), dtype=KEY_TYPE)
    for row, (content, name) in enumerate(samples):
        keys["content"][row] = content, 7
        keys["id"][row] = np.frombuffer(id_hash(name), dtype="<u8")
        keys["row"][row] = 10 * row
    return keys


@settings(max_examples=300, deadline=None)
@given(st.lists(st.lists(st.tuples(st.integers(0, 12), NAMES), max_size=8), max_size=4))
def test_the_first_of_equal_samples_stays_and_ids_become_unique(files):
    samples = [sample for file in files for sample in file]
    keys = SampleKeys([FileKeys(f"file {n}", keys_of(file)) for n, file in enumerate(files)])
    first = {}
    for number, (content, _) in enumerate(samples):
        first.setdefault(content, number)
    assert keys.first.tolist() == [first[content] for content, _ in samples]
    kept = [number for number, (content, _) in enumerate(samples) if first[content] == number]
    assert np.flatnonzero(keys.kept).tolist() == kept
    names = [keys.unique_id(samples[number][1], number) for number in kept]
    assert len(set(names)) == len(names)
    seen = set()
    for number, name in zip(kept, names, strict=True):
        published = samples[number][1]
        # The first sample of an id keeps it; no other is given an id that somebody published.
        if published not in seen:
            assert name == published
        else:
            assert name.startswith(f"{published}~")
            assert name not in {samples[k][1] for k in kept}
        seen.add(published)


def test_a_sample_is_told_by_file_and_row():
    files = [FileKeys("x", keys_of([(0, "a")])), FileKeys("empty", keys_of([])),
             FileKeys("y", keys_of([(1, "b"), (0, "c")]))]  # fmt: skip
    keys = SampleKeys(files)
    assert [keys.where(number) for number in range(3)] == [
        "row 0 of x", "row 0 of y", "row 10 of y",
    ]  # fmt: skip
    assert keys.where(int(keys.first[2])) == "row 0 of x"


@pytest.mark.parametrize("files", [[], [FileKeys("x", keys_of([]))]])
def test_nothing_is_compared_with_nothing(files):
    assert SampleKeys(files).kept.tolist() == []
