"""The segments that a recipe declares."""

import pytest

from smolvlm2.errors import ConfigError
from smolvlm2.training.segment_recipes import segment_recipes


def test_segments_before_a_step_are_merged(make_recipe):
    recipe = make_recipe(
        "segments=[{first_step: 2, gradient_accumulation_steps: 5}, {first_step: 4, pack: {tiles: "
        "99}}]"
    )
    found = segment_recipes(recipe, first_step=3)
    assert [step for step, _ in found] == [3, 4]
    assert found[0][1].training.gradient_accumulation_steps == 5
    assert found[1][1].pack.tiles == 99
    assert found[1][1].training.gradient_accumulation_steps == 5


def test_sources_of_a_curriculum_may_not_end(make_recipe):
    recipe = make_recipe("segments=[{first_step: 2}]", "data.mixture.epochs=1")
    with pytest.raises(ConfigError, match="segments: the mixture from step 0 ends after 1 epochs"):
        segment_recipes(recipe)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("{first_step: 0}", "first_step is 0, expected at least 1"),
        ("{first_step: 1, gradient_accumulation_steps: 0}", "gradient_accumulation_steps is 0"),
    ],
)
def test_impossible_segments_are_refused(make_recipe, value, message):
    with pytest.raises(ConfigError, match=message):
        make_recipe(f"segments=[{value}]")
