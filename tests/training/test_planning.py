"""From a recipe to its plan: sizes, ends, warnings."""

import json
import os
from dataclasses import replace

import numpy as np
import pytest

from smolvlm2.errors import ConfigError
from smolvlm2.model.config import SmolVLMConfig
from smolvlm2.plan.cost import CostModel
from smolvlm2.plan.plan import count_steps
from smolvlm2.processing.processor import Processor
from smolvlm2.training import planning
from smolvlm2.training.model_cost import cost_of
from smolvlm2.training.planning import plan_data, size_plan
from smolvlm2.training.starting_point import starting_config, starting_tokenizer


@pytest.fixture(scope="module")
def plan_recipe(make_recipe):
    """Plan the world under overrides."""
    recipe = make_recipe()
    config = starting_config(recipe, None)
    tokenizer = starting_tokenizer(recipe, None)

    def plan(*overrides):
        recipe = make_recipe(*overrides)
        processor = Processor.for_model(config, tokenizer, image=recipe.image, video=recipe.video)
        return plan_data(recipe, processor, context=512, config=config)

    return plan


def test_the_published_shapes_cost_what_the_defaults_say():
    assert cost_of(SmolVLMConfig()) == CostModel()


def test_costs_follow_the_model(plan_recipe, make_recipe):
    config = starting_config(make_recipe(), None)
    assert plan_recipe().plan.cost == cost_of(config) != CostModel()


def test_an_endless_mixture_has_no_last_step(plan_recipe):
    data = plan_recipe()
    assert data.steps is None
    assert "steps_until_sources_end" not in data.facts


def test_steps_of_a_mixture_that_ends_are_counted_once_and_kept(plan_recipe, world, monkeypatch):
    data = plan_recipe("data.mixture.epochs=2")
    assert data.steps == count_steps(data.plan) == data.facts["steps_until_sources_end"]
    kept = world / "data" / "prepared" / ".plans" / f"{data.plan.digest()}.json"
    assert json.loads(kept.read_text()) == {"steps": data.steps}
    monkeypatch.setattr(planning, "count_steps", None)
    assert plan_recipe("data.mixture.epochs=2").steps == data.steps


def test_forgotten_counts_go_when_steps_are_counted(plan_recipe, world, monkeypatch):
    monkeypatch.setattr(planning, "KEPT_COUNTS", 1)
    kept = world / "data" / "prepared" / ".plans"
    kept.mkdir(exist_ok=True)
    old = kept / "0123456789abcdef.json"
    old.write_text('{"steps": 5}')
    os.utime(old, (0, 0))
    data = plan_recipe("data.mixture.epochs=3")
    assert (kept / f"{data.plan.digest()}.json").is_file()
    assert not old.exists()


def test_every_source_comes_as_often_as_the_epochs_say(plan_recipe):
    data = plan_recipe("data.mixture.epochs=1.5", "training.max_steps=100000")
    for source in data.facts["sources"].values():
        whole = -(-3 * source["samples"] // 2)  # rounded up to a sample
        assert source["epochs"] == round(whole / source["samples"], 2)


def test_the_stage_ends_with_its_sources(make_trainer, tmp_path):
    overrides = ("data.mixture.epochs=0.2", "training.max_steps=50")
    trainer = make_trainer(tmp_path / "run", *overrides)
    plan = json.loads((tmp_path / "run" / "plan" / "plan.json").read_text())
    assert plan["steps"] == plan["steps_until_sources_end"] < 50
    assert trainer.recipe.training.max_steps == plan["steps"]
    saved = (tmp_path / "run" / "config.yaml").read_text()
    assert "max_steps: 50" in saved


def test_many_epochs_are_warned_of(plan_recipe):
    assert plan_recipe("training.max_steps=2").warnings == []
    (warning, *_) = plan_recipe("training.max_steps=500").warnings
    assert "times (more than 4): lower its weight, or train fewer steps" in warning


def test_sizes_are_those_of_the_recipe_at_any_number_of_devices(plan_recipe):
    one = plan_recipe("training.reference_devices=2", "training.gradient_accumulation_steps=2")
    two = plan_recipe("training.reference_devices=4", "training.gradient_accumulation_steps=1")
    assert one.plan.digest() == two.plan.digest()


def test_a_batch_size_moves_the_capacity_and_not_the_step(plan_recipe):
    small = plan_recipe("training.per_device_train_batch_size=4")
    large = plan_recipe(
        "training.per_device_train_batch_size=8", "training.gradient_accumulation_steps=1"
    )
    assert large.plan.capacity.tokens > small.plan.capacity.tokens
    assert large.plan.packs_per_step < small.plan.packs_per_step
    assert large.samples_per_step == pytest.approx(small.samples_per_step, rel=0.35)


def test_overlapping_patterns_are_refused_when_opened(plan_recipe):
    entries = (
        "[{source: cauldron_digits, subset: 'digits_*'}, {source: cauldron_digits, subset: '*one'}]"
    )
    with pytest.raises(ConfigError, match=r"overlaps cauldron_digits:d"):
        plan_recipe(f"data.mixture.entries={entries}")


def test_a_mixture_of_another_size_than_it_says_is_warned_of(plan_recipe):
    entries = "[{source: text_digits, samples: 9000}]"
    data = plan_recipe(f"data.mixture.entries={entries}", "training.max_steps=2")
    assert "where the mixture expects 9,000" in data.warnings[-1]


def test_weights_may_be_shares_of_tokens(plan_recipe):
    data = plan_recipe("data.mixture.unit=tokens")
    draw = data.plan.order.samples(0, 4000)
    tokens = draw.column(data.tables, "tokens")
    sums = np.bincount(draw.source, weights=tokens)
    assert sums / sums.sum() == pytest.approx(1 / len(sums), rel=0.05)


def test_a_mixture_can_be_sized_for_another_batch(plan_recipe, make_recipe):
    data, recipe = plan_recipe(), make_recipe()
    mixture = replace(recipe.data.mixture)
    plan, means = size_plan(recipe, data.tables, mixture, data.plan.cost)
    assert plan.digest() == data.plan.digest()
    assert means["samples_per_pack"] * plan.packs_per_step == data.samples_per_step
