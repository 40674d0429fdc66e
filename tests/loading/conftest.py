"""The tiny world of the training tests, planned, and its packs as the loader sees them."""

import importlib.util
from pathlib import Path

import pytest

from smolvlm2.loading.reader import PackReader
from smolvlm2.model.components import load_components
from smolvlm2.processing.processor import Processor
from smolvlm2.training.planning import plan_data
from smolvlm2.training.starting_point import starting_config, starting_tokenizer

# Test folders are no packages, so the other conftest is loaded by its path.
_spec = importlib.util.spec_from_file_location(
    "training_world", Path(__file__).parents[1] / "training" / "conftest.py"
)
_world = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_world)
world, make_recipe, broken_world = _world.world, _world.make_recipe, _world.broken_world


@pytest.fixture(scope="session")
def make_reader(make_recipe):
    """Plan and reader of the world: ``make_reader("key=value", loss_weight="token")``."""

    def make(*overrides: str, loss_weight: str = "token"):
        recipe = make_recipe(*overrides)
        config = starting_config(recipe, None)
        processor = Processor.for_model(
            config, starting_tokenizer(recipe, None), image=recipe.image, video=recipe.video
        )
        data = plan_data(recipe, processor, context=config.text.max_position_embeddings)
        reader = PackReader(
            tables=data.tables,
            manifests=data.manifests,
            processor=processor,
            capacity=data.plan.capacity,
            image_token_id=config.image_token_id,
            pad_token_id=config.pad_token_id,
            loss_weight=loss_weight,
        )
        return data, reader

    return make


@pytest.fixture(scope="session")
def model(make_recipe):
    """The world's model before training."""
    return load_components(make_recipe().model, seed=0)
