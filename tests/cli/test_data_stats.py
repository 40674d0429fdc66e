"""Shares of a mixture, against a count by hand."""

import json

import numpy as np
import pytest

from smolvlm2.cli.data_stats import data_stats, mixture_stats
from smolvlm2.cli.opened_mixture import open_mixture


@pytest.fixture(scope="module")
def opened(recipe_file):
    return open_mixture(recipe_file)


@pytest.fixture(scope="module")
def stats(opened):
    return mixture_stats(opened)


@pytest.mark.parametrize("name", ["samples", "tokens", "tiles", "supervised"])
def test_shares_of_everything_sum_to_one(stats, name):
    assert sum(getattr(share, name) for share in stats.shares) == pytest.approx(1)


def test_samples_follow_the_weights_and_tokens_the_lengths(opened, stats):
    weights = {"cauldron_digits:digits_one": 0.3, "m4_digits": 0.2, "odd_pages": 0.1}
    sizes = {
        entry.name: entry.weight * np.mean([entry.tokens, entry.tiles, entry.supervised], axis=1)
        for entry in opened.entries
    }
    total = sum(sizes.values())
    for name, weight in weights.items():
        here = [share for share in stats.shares if share.entry == name]
        assert sum(share.samples for share in here) == pytest.approx(weight)
        shares = [sum(getattr(s, c) for s in here) for c in ("tokens", "tiles", "supervised")]
        assert shares == pytest.approx((sizes[name] / total).tolist())
    text = next(share for share in stats.shares if share.modality == "text")
    assert (text.tiles, text.mean_tiles) == (0, 0)
    assert text.supervised > 0


def test_rows_left_out_are_counted_by_reason(stats):
    odd = stats.entries["odd_pages"]
    assert (odd.rows, odd.admitted, odd.excluded, odd.cut) == (4, 3, {"too_long": 1}, 1)
    assert stats.shares[-1].rows == 4


def test_epochs_follow_from_the_recipes_steps(opened, stats):
    training = opened.recipe.training
    assert stats.samples_seen == training.samples_per_step * 10
    m4 = stats.entries["m4_digits"]
    assert m4.epochs == pytest.approx(0.2 * stats.samples_seen / m4.admitted)


def test_a_run_that_ends_with_its_sources_sees_each_as_often_as_the_epochs_say(
    recipe_file, tmp_path
):
    ends = tmp_path / "ends.yaml"
    ends.write_text(
        f"extends: {recipe_file}\n"
        "data: {mixture: {epochs: 2}}\n"
        "training: {max_steps: 100000}\n"
    )
    stats = mixture_stats(open_mixture(str(ends)))
    rows = sum(entry.admitted for entry in stats.entries.values())
    assert stats.samples_seen == 2 * rows
    for name, entry in stats.entries.items():
        assert entry.epochs == pytest.approx(2)
        here = sum(share.samples for share in stats.shares if share.entry == name)
        assert here == pytest.approx(entry.admitted / rows)


def test_tables_name_every_entry_and_modality(recipe_file):
    text = data_stats(recipe_file)
    lines = [line.split() for line in text.splitlines()]
    assert [line[1] for line in lines if line[:1] == ["all"]] == [
        "text",
        "image",
        "multi-image",
        "video",
    ]
    assert "1 too_long, 1 kept without their last turns" in text
    row = next(line for line in lines if line[:2] == ["m4_digits", "multi-image"])
    assert row[4:6] == ["20.0%", "20.0%"]


def test_json_holds_the_same_numbers(recipe_file, stats):
    assert json.loads(data_stats(recipe_file, as_json=True)) == json.loads(
        json.dumps(stats.to_json())
    )


def test_a_source_without_admitted_rows_is_told_not_divided_by(recipe_file, empty_source):
    text = data_stats("nothing", recipes=[recipe_file], data=empty_source)
    assert text.splitlines()[-1].split() == ["nothing", "none", "nothing"]
