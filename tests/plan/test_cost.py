"""Costs against figures worked out by hand and against the reference."""

import numpy as np
import pytest

from smolvlm2.plan.cost import CostModel, model_cost

PUBLISHED_256M = {
    "patches": 1024,
    "patch_values": 768,
    "vision_width": 768,
    "vision_feed_forward": 3072,
    "vision_layers": 12,
    "tokens_per_tile": 64,
    "text_width": 576,
    "text_feed_forward": 1536,
    "text_layers": 30,
    "query_width": 576,
    "key_value_width": 192,
    "vocabulary": 49280,
}


def test_the_defaults_are_the_published_256m():
    assert model_cost(**PUBLISHED_256M) == CostModel()


def test_a_tile_costs_what_the_reference_says():
    """214 GFLOP forward, and 54 for its 64 tokens with connector and head, forward and backward."""
    cost = CostModel()
    assert cost.tile / 1e9 == pytest.approx(214, abs=0.5)
    tokens = cost.connector + 64 * (cost.token + cost.supervised)
    assert tokens / 1e9 == pytest.approx(54, abs=0.5)


def test_training_the_encoder_costs_three_times_its_forward_pass():
    one = np.array([1])
    none = np.array([0])
    frozen, trains = (
        CostModel().cost(one, none, none, none, frozen=frozen) for frozen in (True, False)
    )
    assert trains - frozen == 2 * CostModel().tile


def test_two_packs_of_4096_tokens_differ_as_the_reference_says():
    """Text only against 56 tiles and 512 tokens of text, head everywhere, encoder training."""
    cost = CostModel()
    text, tiles = (
        cost.cost(*(np.array([v]) for v in (count, 4096, 0, 4096)), frozen=False)[0]
        for count in (0, 56)
    )
    assert tiles / text == pytest.approx(11.9, rel=0.05)
