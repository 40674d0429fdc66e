"""Ranks that differ in their data, their devices or the folder that they write to."""

import json
import re
import shutil

import pytest

LIMIT = 250
"""Seconds; a launch takes ten on an idle machine."""
APART = """
import os, sys
from smolvlm2.cli.train import main

rank, arguments = int(os.environ["RANK"]), sys.argv[1:]
of_rank = [each.split("//")[rank] if "//" in each else each for each in arguments]
sys.argv[1:] = [each for each in of_rank if each]
main("vision")
"""
"""Ranks with arguments of their own: of ``a//b`` rank 0 takes a and rank 1 takes b."""


def test_ranks_whose_data_make_another_plan_are_refused(run_ranks, recipe_file, tmp_path):
    options = ["--device", "cpu", "--config", recipe_file(), "--output-dir", tmp_path / "run"]
    done = run_ranks(["-c", APART, *options, "//pack.window=32"], 2, seconds=LIMIT)
    assert [rank.code for rank in done] == [2, 2], done
    assert "error: rank 1 on " in done[0].output
    assert "make another plan than those of rank 0" in done[0].output
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("sharding", ["full", "replicate"])
def test_all_ranks_begin_with_the_weights_of_rank_0(
    run_ranks, recipe_file, make_trainer, straight, tmp_path, log_lines, sharding
):
    settings = ("training.max_steps=2", "training.seed=5")
    make_trainer(tmp_path / "one", *settings, checkpoint=straight).train()
    recipe = recipe_file(*settings, f"parallel.sharding={sharding}")
    options = ["--device", "cpu", "--config", recipe, "--output-dir", tmp_path / "run"]
    start = f"{straight}//{straight}/checkpoints/step-00000002"  # copies that are not alike
    done = run_ranks(["-c", APART, *options, "--checkpoint", start], 2, seconds=LIMIT)
    assert [rank.code for rank in done] == [0, 0], done
    for line, expected in zip(
        log_lines(tmp_path / "run"), log_lines(tmp_path / "one"), strict=True
    ):
        assert line["loss"] == pytest.approx(expected["loss"], rel=1e-5)


def test_ranks_that_start_from_another_model_are_refused(
    run_ranks, recipe_file, straight, tmp_path
):
    other = shutil.copytree(straight, tmp_path / "other", symlinks=True)
    config = json.loads((other / "config.json").read_text())
    config["text_config"]["rms_norm_eps"] *= 2  # packs and shapes stay as they are
    (other / "config.json").write_text(json.dumps(config))
    options = ["--device", "cpu", "--config", recipe_file(), "--output-dir", tmp_path / "run"]
    start = f"{straight}//{other}"
    done = run_ranks(["-c", APART, *options, "--checkpoint", start], 2, seconds=LIMIT)
    assert [rank.code for rank in done] == [2, 2], done
    assert "components there are of another model than those of rank 0" in done[0].output


ONE_MEASURES = """
import os
from smolvlm2.loading import admission
from smolvlm2.cli.train import main

measure = admission._compute

def compute(manifest, *arguments):
    print("measured", manifest.source, "on rank", os.environ["RANK"])
    return measure(manifest, *arguments)

admission._compute = compute
main("vision")
"""
"""Says who computes the lengths of a source."""


def test_lengths_are_computed_by_one_rank_for_all(run_ranks, recipe_file, tmp_path):
    recipe = recipe_file("training.max_steps=1", "limits.max_tokens=437")  # as nowhere else
    options = ["--device", "cpu", "--config", recipe, "--output-dir", tmp_path / "run"]
    done = run_ranks(["-c", ONE_MEASURES, *options], 2, seconds=LIMIT)
    assert [rank.code for rank in done] == [0, 0], done
    assert "measured" in done[0].output
    assert "measured" not in done[1].output


@pytest.mark.slow
def test_a_checkpoint_on_disks_of_their_own_is_not_taken_for_whole(
    run_ranks, recipe_file, tmp_path
):
    recipe = recipe_file("training.max_steps=2", "parallel.sharding=full")
    folders = f"{tmp_path / 'here'}//{tmp_path / 'there'}"
    options = ["--device", "cpu", "--config", recipe, "--output-dir", folders]
    done = run_ranks(["-c", APART, *options], 2, seconds=LIMIT)
    assert [rank.code for rank in done] == [2, 2], done
    assert "__1_0.distcp, which another rank wrote, is not there" in done[0].output
    assert not list((tmp_path / "here" / "checkpoints").glob("step-*"))


MEMORY = """
import os, sys
from smolvlm2.config import load_config
from smolvlm2.plan.packs import Capacity
from smolvlm2.training import layout_choice
from smolvlm2.training.distributed import connect
from smolvlm2.training.launch import read_launch
from smolvlm2.training.recipe import Recipe
from smolvlm2.training.starting_point import starting_config

world, recipe = connect(read_launch(os.environ), "cpu"), load_config(Recipe, sys.argv[1])
layout_choice.device_memory = lambda device: [2**40, 2**20][world.rank]
capacity = Capacity(tokens=100, tiles=4, documents=8)
print("took", *layout_choice.choose_memory(recipe, starting_config(recipe, None), capacity, world))
world.close()
"""
"""Ranks on devices with more and with less memory."""


def test_ranks_on_unequal_devices_choose_alike(run_ranks, recipe_file):
    recipe = recipe_file("training.activation_checkpointing=auto")
    done = run_ranks(["-c", MEMORY, recipe], 2, seconds=LIMIT)
    chosen = [re.findall("took (.*)", rank.output) for rank in done]
    assert chosen == [["full: 1 x 2 ranks (copies x shards) all"]] * 2, done
