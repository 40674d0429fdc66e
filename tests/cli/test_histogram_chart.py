"""Histograms: every sample in a bar, no bar out of the chart."""

import re

import numpy as np
import pytest

from smolvlm2.cli.histogram_chart import BINS, bin_width, histogram_chart


@pytest.mark.parametrize(
    "values", [[0], [7] * 5, list(range(3000)), [1, 2, 2, 90_000], [0, 0, 1], [10**9]]
)
def test_every_sample_is_in_one_bar(values):
    svg = histogram_chart(np.array(values), name="tokens")
    counts = [int(c.replace(",", "")) for c in re.findall(r"tokens: ([\d,]+) samples</title>", svg)]
    assert sum(counts) == len(values)
    assert len(counts) <= BINS
    assert "nan" not in svg
    for x, y, width, height in re.findall(
        r'class="bars" x="([\d.]+)" y="([\d.]+)" width="([\d.]+)" height="([\d.]+)"', svg
    ):
        assert 0 <= float(x) <= float(x) + float(width) <= 480
        assert 0 <= float(y) <= float(y) + float(height) <= 270


def test_one_giant_does_not_flatten_the_rest():
    values = np.array([*range(100)] * 10 + [1_000_000])
    svg = histogram_chart(values, name="tokens")
    assert svg.count("<rect") > 10
    assert "to 1,000,000 tokens" in svg


def test_no_values_are_said_in_words():
    assert histogram_chart(np.zeros(0, dtype=int), name="tiles") == "<p class=quiet>No samples.</p>"


@pytest.mark.parametrize(("low", "top"), [(0, 0), (0, 23), (5, 17_000), (99, 101)])
def test_bars_are_at_most_so_many(low, top):
    width = bin_width(low, top)
    assert top // width - low // width + 1 <= BINS
