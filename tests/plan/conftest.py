"""Synthetic sources with the spread of a real mixture."""

import numpy as np
import pytest

from smolvlm2.plan.samples import SourceTable


@pytest.fixture
def make_table(make_table_once):
    """As ``make_table_once``."""
    return make_table_once


@pytest.fixture(scope="session")
def make_table_once():
    """Builder of a source of one modality: 0 text, 1 image, 2 multi-image, 3 video."""

    def make(name, size, modality, *, seed=0):
        generator = np.random.default_rng(seed)
        low, high = [(0, 1), (1, 18), (2, 36), (8, 33)][modality]
        tiles = generator.integers(low, high, size)
        text = generator.integers(20, 300, size)
        return SourceTable(
            name=name,
            rows=np.arange(size),
            tiles=tiles.astype(np.int32),
            tokens=(text + tiles * 66).astype(np.int32),
            supervised=(text // (2 if modality == 0 else 8)).astype(np.int32),
            messages=np.full(size, 2, dtype=np.int32),
            modality=np.full(size, modality, dtype=np.uint8),
            excluded={},
        )

    return make


@pytest.fixture
def mixture(make_table):
    """Four sources and their weights."""
    tables = [
        make_table("image", 900, 1, seed=1),
        make_table("video", 700, 3, seed=2),
        make_table("text", 350, 0, seed=3),
        make_table("multi", 130, 2, seed=4),
    ]
    return tables, [34.4, 33.0, 20.2, 12.3]
