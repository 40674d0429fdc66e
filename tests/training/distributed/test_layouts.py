"""How many ranks train and how many workers read changes neither packs nor, to rounding, losses."""

import json

import pytest

SETTINGS = (
    "training.per_device_train_batch_size=3",
    "training.gradient_accumulation_steps=10",
    *("pack.tokens=450", "pack.tiles=8"),  # a pack for each of eight ranks, and more
    "training.max_steps=5",
    "training.unfreeze_vision_after_steps=2",
    "checkpoint.every_steps=5",
)
LIMIT = 600
"""Seconds of a launch; forty processes start in the largest."""


@pytest.fixture
def differences(make_trainer, run_ranks, train_command, tmp_path, log_lines):
    """Train under several layouts: ``differences([(ranks, workers), ...])``.

    Gives each layout's largest relative difference of a step's loss to one rank without workers,
    after comparing everything that has to be equal to the letter.
    """

    def compare(layouts):
        alone = make_trainer(tmp_path / "alone", *SETTINGS)
        assert alone.plan.packs_per_step >= 8
        alone.train()
        expected, found = log_lines(tmp_path / "alone"), {}
        for ranks, workers in layouts:
            folder = tmp_path / f"{ranks}-{workers}"
            command = train_command(folder, *SETTINGS, f"data.workers={workers}")
            for rank in run_ranks(command, ranks, seconds=LIMIT):
                assert rank.code == 0, rank.output
            lines = log_lines(folder)
            for name in ("chain", "samples", "tokens", "tiles", "supervised", "fill_tiles"):
                assert [line[name] for line in lines] == [line[name] for line in expected]
            found[f"{ranks} ranks, {workers} workers"] = max(
                abs(line["loss"] / other["loss"] - 1)
                for line, other in zip(lines, expected, strict=True)
            )
        return found

    return compare


def test_two_ranks_with_a_worker_each_train_as_one_without(differences):
    assert max(differences([(2, 1)]).values()) < 1e-5


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_the_layout_changes_neither_packs_nor_losses(differences):
    layouts = [(ranks, workers) for ranks in (1, 2, 3, 8) for workers in (0, 1, 4)]
    found = differences(layouts)
    print(json.dumps(found))  # pytest -s shows it
    assert max(found.values()) < 1e-5
