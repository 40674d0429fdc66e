"""Groups of the optimiser."""

import math

import pytest

from smolvlm2.errors import ConfigError
from smolvlm2.model.components import load_components
from smolvlm2.training.freezing import learning_rates, set_learning_rates
from smolvlm2.training.optimizer import OptimizerSettings, build_optimizer, part_of


@pytest.mark.parametrize("tied", ["true", "false"])
def test_every_parameter_is_in_one_group_of_its_part(make_recipe, tied):
    recipe = make_recipe(f"model.tie_word_embeddings={tied}")
    model = load_components(recipe.model, seed=0)
    optimizer = build_optimizer(model.named_parameters(), recipe.optimizer)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    grouped = [names[id(p)] for group in optimizer.param_groups for p in group["params"]]
    assert sorted(grouped) == sorted(names.values())
    assert ("lm_head.weight" in grouped) is (tied == "false")
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            name = names[id(parameter)]
            assert part_of(name) == group["part"]
            bare = "bias" in name or "norm" in name or "position_embedding" in name
            assert group["weight_decay"] == (0 if bare else 0.1), name


def test_each_part_gets_its_own_rate(make_recipe):
    recipe = make_recipe(
        "schedule.type=constant",
        "schedule.warmup_steps=0",
        "optimizer.connector_learning_rate=0.5",
        "optimizer.text_decoder_learning_rate=0",
    )
    optimizer = build_optimizer(
        load_components(recipe.model, seed=0).named_parameters(), recipe.optimizer
    )
    set_learning_rates(optimizer, learning_rates(0, recipe))
    rates = {group["part"]: group["lr"] for group in optimizer.param_groups}
    assert rates == {"vision_encoder": 0, "connector": 0.5, "text_decoder": 0}


def test_impossible_settings_are_refused():
    with pytest.raises(ConfigError, match=r"optimizer\.connector_learning_rate is -1"):
        OptimizerSettings(connector_learning_rate=-1)
    with pytest.raises(ConfigError, match=r"optimizer\.max_grad_norm is 0"):
        OptimizerSettings(max_grad_norm=0)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("connector_learning_rate", math.inf),
        ("max_grad_norm", math.nan),
        ("weight_decay", -0.1),
        ("weight_decay", math.nan),
        ("eps", -1e-8),
        ("beta1", 1.0),
        ("beta2", -0.1),
    ],
)
def test_numbers_that_would_spoil_weights_are_refused(name, value):
    with pytest.raises(ConfigError, match=rf"optimizer\.{name} is {value}"):
        OptimizerSettings(**{name: value})
