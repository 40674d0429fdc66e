"""Parameters and memory on paper."""

import pytest
import torch

from smolvlm2.config import find_recipe, load_config
from smolvlm2.errors import ConfigError
from smolvlm2.model.component_shapes import component_shapes
from smolvlm2.model.smolvlm import SmolVLM
from smolvlm2.plan.packs import Capacity
from smolvlm2.training.memory import choose_checkpointing, count_parameters, estimate_memory
from smolvlm2.training.recipe import EncoderSettings, Recipe, TrainingSettings


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
    assert (
        estimate(activation_checkpointing="none").total
        > estimate(activation_checkpointing="encoder").total
        > estimate(activation_checkpointing="all").total
        == base
    )
    assert estimate(bf16=False).activations > estimate().activations


def test_a_chunk_of_tiles_needs_less_than_all_of_them():
    config = component_shapes(load_config(Recipe, find_recipe("model_256m")).model)
    capacity = Capacity(tokens=1024, tiles=96, documents=64)

    def total(trains, chunk):
        return estimate_memory(
            config, capacity, TrainingSettings(), vision_trains=trains, tile_chunk=chunk
        ).total

    for trains in (True, False):
        # Below some size the decoder's moment is the worst.
        assert total(trains, 4) <= total(trains, 16) < total(trains, None) == total(trains, 99)


def test_auto_takes_the_cheapest_that_fits():
    config = component_shapes(load_config(Recipe, find_recipe("published/model_256m")).model)
    capacity = Capacity(tokens=8192, tiles=84, documents=64)

    def chosen(gigabytes, asked="auto"):
        return choose_checkpointing(
            config,
            capacity,
            TrainingSettings(activation_checkpointing=asked),
            vision_trains=True,
            memory=gigabytes and gigabytes * 1e9,
        )

    assert [chosen(size) for size in (None, 80, 25, 12)] == ["none", "none", "encoder", "all"]
    assert chosen(1) == "all"
    assert chosen(80, "encoder") == "encoder"


def test_what_the_specification_calls_gradient_checkpointing_means_all():
    assert TrainingSettings(gradient_checkpointing=True).checkpointing == "all"
    assert TrainingSettings(gradient_checkpointing=False).checkpointing == "none"
    both = TrainingSettings(gradient_checkpointing=True, activation_checkpointing="encoder")
    assert both.checkpointing == "encoder"
    with pytest.raises(ConfigError, match=r"encoder\.tile_chunk is 0"):
        EncoderSettings(tile_chunk=0)
