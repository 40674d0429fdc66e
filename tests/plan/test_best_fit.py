"""Tight packing for samples that are large against a pack."""

import numpy as np

from smolvlm2.plan.best_fit import best_fit

LIMITS = {"most_tokens": 1000, "most_tiles": 10, "documents": 3}


def test_the_pack_with_fewest_free_tiles_takes_a_sample():
    tiles = np.array([7, 6, 3, 4])
    packs = best_fit(tiles * 10, tiles, **LIMITS)
    assert packs.tolist() == [0, 1, 0, 1]


def test_text_goes_where_most_tokens_are_free():
    tiles, tokens = np.array([10, 10, 0, 0]), np.array([900, 400, 300, 100])
    assert best_fit(tokens, tiles, **LIMITS).tolist() == [0, 1, 1, 1]


def test_documents_are_limited():
    counts = np.bincount(best_fit(np.full(10, 1), np.zeros(10, dtype=int), **LIMITS))
    assert counts.tolist() == [3, 3, 3, 1]


def test_no_limit_is_passed_and_little_room_is_left():
    draw = np.random.default_rng(0)
    tiles = draw.integers(0, 8, 400)
    tokens = tiles * 60 + draw.integers(1, 300, 400)
    packs = best_fit(tokens, tiles, most_tokens=1000, most_tiles=10, documents=64)
    for values, most in ((tokens, 1000), (tiles, 10)):
        sums = np.bincount(packs, weights=values)
        assert sums.max() <= most
    assert packs.max() + 1 <= 1.12 * max(tokens.sum() / 1000, tiles.sum() / 10)
