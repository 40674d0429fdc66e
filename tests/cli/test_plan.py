"""``smolvlm2 plan`` says what a plan comes to."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from smolvlm2.cli.main import app
from smolvlm2.cli.plan import describe_plan
from smolvlm2.errors import ConfigError, PlanError

_spec = importlib.util.spec_from_file_location(
    "training_world", Path(__file__).parents[1] / "training" / "conftest.py"
)
_world = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_world)
world, make_recipe, recipe_file = _world.world, _world.make_recipe, _world.recipe_file


def test_the_command_prints_shares_ranks_and_cores(recipe_file):
    result = CliRunner().invoke(
        app, ["plan", str(recipe_file()), "training.max_steps=40", "--ranks", "2"]
    )
    assert result.exit_code == 0, result.output
    for text in (
        "pack   ",
        "packs, ",
        "sources end        never",
        "cauldron_digits",
        "of loss",
        "spread over steps / independent draws",
        "# ranks; packs are filled to ",
        "cores a GPU",
        "warning: ",
    ):
        assert text in result.output


def test_the_recipes_settings_can_be_changed(recipe_file):
    text = describe_plan([str(recipe_file()), "data.mixture.epochs=1"])
    assert "sources end        after " in text


@pytest.mark.parametrize("kind", ["token", "sample", "sqrt"])
def test_shares_of_the_loss_follow_its_weights(recipe_file, kind):
    text = describe_plan([str(recipe_file()), f"loss.weight={kind}"])
    sections = {part.split("\n")[0]: part.split("\n") for part in text.split("\n\n")}
    sources = [line.split() for line in sections["# sources, over 100 steps"][2:]]
    modalities = [line.split() for line in sections["# modalities"][2:]]
    for lines, samples, loss in ((sources, 3, 6), (modalities, 1, 2)):
        assert len(lines) == 4
        assert all(line[samples] == line[loss] for line in lines) is (kind == "sample")
        assert sum(float(line[loss].rstrip("%")) for line in lines) == pytest.approx(100, abs=0.1)


def test_capacities_are_suggested_for_a_memory(recipe_file):
    text = describe_plan([str(recipe_file())], gpu_memory=4)
    assert "# capacities for 4 GiB" in text
    assert "largest that fits: pack.tokens=" in text
    assert "none fits" in describe_plan([str(recipe_file())], gpu_memory=1)


def test_planning_loads_no_torch(recipe_file):
    code = (
        "import sys; from smolvlm2.cli.plan import describe_plan;"
        f"describe_plan([{str(recipe_file())!r}, 'image.resample=fast'], gpu_memory=4);"
        "print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "False"


def test_more_ranks_than_packs_are_refused(recipe_file):
    with pytest.raises(PlanError, match="500 ranks for "):
        describe_plan([str(recipe_file())], ranks=500)


def test_a_recipe_is_needed():
    with pytest.raises(ConfigError, match="no recipe given; name a model's and a stage's"):
        describe_plan(["training.max_steps=3"])
