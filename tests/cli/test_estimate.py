"""What ``smolvlm2 estimate`` prints."""

import json

import pytest

from smolvlm2.cli.estimate import describe_estimate
from smolvlm2.config import find_recipe, load_config, save_config
from smolvlm2.errors import CheckpointNotFoundError, ConfigError
from smolvlm2.model.components import component_shapes
from smolvlm2.model.hub import write_json
from smolvlm2.training.estimate import GPUS
from smolvlm2.training.recipe import Recipe

RECIPE = ["published/model_256m", "train_vision_stage"]


@pytest.mark.parametrize("gpu", GPUS)
def test_each_gpu_gets_memory_time_and_disk(gpu):
    text = describe_estimate(RECIPE, gpu=gpu)
    assert GPUS[gpu].source in text
    assert "steps 0-9999" in text
    assert "steps 10000-49999" in text
    assert "GPU-hours on 8 devices" in text
    assert "3.1 GB a checkpoint" in text


def test_a_run_is_compared_phase_by_phase(tmp_path):
    recipe = load_config(Recipe, *map(find_recipe, RECIPE))
    save_config(recipe, tmp_path / "config.yaml")
    write_json(component_shapes(recipe.model).to_hf(), tmp_path / "config.json")
    write_json(
        {"pack": {"tokens": 8192, "tiles": 84}, "packs_per_step": 32}, _made(tmp_path / "plan")
    )
    lines = [{"seconds": 9.0, "vision_learning_rate": 0.0}] * 3
    lines += [{"seconds": 2.0, "vision_learning_rate": 0.0}] * 4
    (tmp_path / "log.jsonl").write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    text = describe_estimate([], gpu="h200", run=tmp_path)
    assert "pack of 8192 tokens and 84 tiles, 32 a step (the run's plan)" in text
    frozen, training = text.splitlines()[-2:]
    assert frozen.split()[0] == "frozen"
    assert frozen.split()[2] == "2.000"
    assert training.split()[-2:] == ["no", "steps"]


def test_a_run_that_ends_with_its_sources_is_estimated_to_its_end(tmp_path):
    entries = "data.mixture={epochs: 2, entries: [{source: own}]}"
    recipe = load_config(Recipe, *map(find_recipe, RECIPE), overrides=[entries])
    assert "at most: the run ends when its sources have come 2 times" in describe_estimate(
        [*RECIPE, entries], gpu="h100"
    )
    save_config(recipe, tmp_path / "config.yaml")
    write_json(component_shapes(recipe.model).to_hf(), tmp_path / "config.json")
    facts = {"pack": {"tokens": 8192, "tiles": 84}, "packs_per_step": 32}
    write_json({**facts, "steps_until_sources_end": 70}, _made(tmp_path / "plan"))
    (tmp_path / "log.jsonl").write_text("", encoding="utf-8")
    text = describe_estimate([], gpu="h100", run=tmp_path)
    assert "steps 0-69" in text
    assert "at most" not in text


def _made(folder):
    folder.mkdir()
    return folder / "plan.json"


def test_what_is_not_there_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="--gpu h999: unknown; expected one of rtx4090"):
        describe_estimate(RECIPE, gpu="h999")
    with pytest.raises(CheckpointNotFoundError, match="expected a run folder"):
        describe_estimate(RECIPE, gpu="h100", run=tmp_path)
