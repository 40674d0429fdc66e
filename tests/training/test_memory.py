"""Parameters and memory on paper."""

import pytest
import torch

from smolvlm2.config import find_recipe, load_config
from smolvlm2.model.component_shapes import component_shapes
from smolvlm2.model.smolvlm import SmolVLM
from smolvlm2.plan.packs import Capacity
from smolvlm2.training.memory import count_parameters, estimate_memory
from smolvlm2.training.recipe import Recipe, TrainingSettings


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("name", ["model_256m", "model_500m", "published/model_256m"])
def test_counts_are_those_of_the_modules(name, tied):
    settings = load_config(Recipe, find_recipe(name)).model
    settings.tie_word_embeddings = tied
    config = component_shapes(settings)
    with torch.device("meta"):
        model = SmolVLM(config)
    counts = count_parameters(config)
    for part in ("vision_encoder", "connector", "text_decoder"):
        assert getattr(counts, part) == sum(p.numel() for p in getattr(model, part).parameters())
    assert counts.total == sum(p.numel() for p in model.parameters())


def estimate(*, tokens=4096, tiles=32, trains=True, **training):
    config = component_shapes(load_config(Recipe, find_recipe("model_256m")).model)
    capacity = Capacity(tokens=tokens, tiles=tiles, documents=64)
    return estimate_memory(config, capacity, TrainingSettings(**training), vision_trains=trains)


def test_memory_grows_with_everything_that_costs_memory():
    base = estimate().total
    assert estimate(tokens=8192).total > base
    assert estimate(tiles=64).total > base
    assert estimate(gradient_checkpointing=False).total > base
    assert estimate(trains=False).total < base
    assert estimate(trains=False).states < estimate().states
    assert estimate(bf16=False).activations > estimate().activations
