"""Step times on paper."""

import pytest

from smolvlm2.config import find_recipe, load_config
from smolvlm2.model.components import component_shapes
from smolvlm2.training.estimate import GPUS, PackLoad, checkpoint_bytes, estimate_step
from smolvlm2.training.model_cost import cost_of
from smolvlm2.training.recipe import Recipe

PACK = PackLoad(tiles=84, tokens=8192, squared=12_615_680, supervised=1171)


def estimate(size="256m", gpu="h200", frozen=True, checkpointing="none"):
    config = component_shapes(load_config(Recipe, find_recipe(f"published/model_{size}")).model)
    return estimate_step(
        config,
        cost_of(config),
        PACK,
        GPUS[gpu],
        frozen=frozen,
        checkpointing=checkpointing,
        packs_per_device=1,
    )


@pytest.mark.parametrize(
    ("size", "gpu", "frozen", "milliseconds"),
    [
        ("256m", "h200", True, 68),
        ("256m", "h200", False, 156),
        ("500m", "h200", True, 99),
        ("500m", "h200", False, 187),
        ("256m", "h100", True, 75),
        ("256m", "h100", False, 171),
    ],
)
def test_it_agrees_with_the_prediction_by_operation(size, gpu, frozen, milliseconds):
    """The detailed prediction of a compiled step, op by op; this one has a few rates only."""
    assert 1000 * estimate(size, gpu, frozen).pack_seconds == pytest.approx(milliseconds, rel=0.09)


def test_useful_flops_are_those_of_the_shapes():
    assert estimate(frozen=True).useful_flops == pytest.approx(24.8e12, rel=0.003)
    assert estimate(frozen=False).useful_flops == pytest.approx(60.7e12, rel=0.003)


def test_recomputation_costs_time_and_no_useful_flops():
    times = [estimate(frozen=False, checkpointing=mode) for mode in ("none", "encoder", "all")]
    assert times[0].pack_seconds < times[1].pack_seconds < times[2].pack_seconds
    assert len({found.useful_flops for found in times}) == 1
    assert pytest.approx(1000 * (times[1].pack_seconds - times[0].pack_seconds), rel=0.1) == 38


def test_a_checkpoint_holds_weights_and_the_moments_of_what_trains():
    config = component_shapes(load_config(Recipe, find_recipe("published/model_256m")).model)
    assert checkpoint_bytes(config, vision_trains=True) == 12 * 256_484_928
    assert checkpoint_bytes(config, vision_trains=False) == 12 * 256_484_928 - 8 * 86_433_024
