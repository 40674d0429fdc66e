"""The shipped recipes and what a recipe refuses."""

import json
import subprocess
import sys

import pytest

from smolvlm2.config import find_recipe, flatten, load_config, load_raw, recipe_names, to_dict
from smolvlm2.data.mixture import MixtureEntry, MixtureSettings
from smolvlm2.errors import ConfigError
from smolvlm2.training.adapters import AdapterSettings
from smolvlm2.training.recipe import (
    CheckpointSettings,
    DataSettings,
    Recipe,
    TrainingSettings,
)
from smolvlm2.training.training_settings import ProfileSettings

NAMES = [name for name in recipe_names() if "accelerate" not in name and "mixtures/" not in name]


@pytest.mark.parametrize("name", NAMES)
def test_every_shipped_recipe_loads(name):
    recipe = load_config(Recipe, find_recipe(name))
    assert (recipe.data.mixture is not None) is ("model_" not in name)


SETTINGS = flatten(
    to_dict(
        Recipe(
            training=TrainingSettings(adapters=AdapterSettings(), profile=ProfileSettings()),
            data=DataSettings(mixture=MixtureSettings(entries=[MixtureEntry(source="pages")])),
        )
    )
)


@pytest.mark.parametrize("key", SETTINGS)
def test_every_setting_can_be_given_on_the_command_line(key):
    needed = ["data.mixture={entries: [{source: pages}]}"] if "mixture." in key else []
    recipe = load_config(Recipe, overrides=[*needed, f"{key}={json.dumps(SETTINGS[key])}"])
    assert flatten(to_dict(recipe))[key] == SETTINGS[key]


def test_the_published_video_mixture_has_its_107_entries():
    recipe = load_config(Recipe, find_recipe("published/train_video_stage"))
    weights = [entry.weight for entry in recipe.data.mixture.entries]
    assert (len(weights), sum(weights)) == (107, 3_027_050)


def test_the_specifications_mixture_has_its_shares():
    path = find_recipe("mixtures/video_stage")
    assert len(load_raw(path)["data"]["mixture"]["entries"]) > 50
    shares, modality = {}, None
    for line in path.read_text().splitlines():
        text = line.strip()
        if text.startswith("# ") and text.endswith("%"):
            modality = text[2:].split(":")[0]
        elif text.startswith("- {") and modality:
            shares[modality] = shares.get(modality, 0) + float(
                text.split("weight: ")[1].rstrip("}")
            )
    total = sum(shares.values())
    expected = {"image": 34.4, "video": 33.0, "text": 20.2, "multiimage": 12.3}
    assert {k: round(100 * v / total, 1) for k, v in shares.items()} == pytest.approx(
        expected, abs=0.06
    )


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"max_steps": 0}, "training.max_steps is 0, expected at least 1"),
        ({"reference_devices": 0}, "training.reference_devices is 0"),
        ({"learning_rate": -1}, "training.learning_rate is -1"),
        ({"max_skip_fraction": -1}, "training.max_skip_fraction is -1"),
        ({"threads": 0}, "training.threads is 0"),
        ({"unfreeze_vision_after_steps": 5}, "freeze_vision_encoder is false"),
        ({"learning_rate": float("inf")}, r"training\.learning_rate is inf"),
        ({"seed": 2**63}, r"training\.seed is 9223372036854775808, expected less"),
    ],
)
def test_impossible_training_is_refused(values, message):
    with pytest.raises(ConfigError, match=message):
        TrainingSettings(**values)


def test_impossible_checkpoints_and_workers_are_refused():
    with pytest.raises(ConfigError, match=r"checkpoint\.every_steps and checkpoint\.keep"):
        CheckpointSettings(keep=0)
    with pytest.raises(ConfigError, match=r"data\.workers is -1"):
        DataSettings(workers=-1)
    with pytest.raises(ConfigError, match=r"data\.sample_timeout_s is 0, expected more than 0"):
        DataSettings(sample_timeout_s=0)


def test_a_recipe_and_its_models_shapes_are_read_without_torch():
    code = (
        "import sys, smolvlm2.training.recipe, smolvlm2.model.component_shapes as shapes;"
        "shapes.component_shapes(shapes.ComponentSettings()); print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False"]
