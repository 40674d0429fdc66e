"""Which samples are shown, and that they are what the loader gives."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import yaml

from smolvlm2.cli.inspect_samples import draw_rows, find_rows, inspect_row
from smolvlm2.cli.opened_mixture import open_mixture
from smolvlm2.data.media import MediaStore
from smolvlm2.errors import DataError

ODD = "odd_pages/diagrams/train-00000-of-00001:{}"


@pytest.fixture(scope="module")
def opened(recipe_file):
    return open_mixture(recipe_file)


def ids_of(opened, rows):
    return [entry.manifest.sample_id(row) for entry, row in rows]


def test_draws_spread_over_modalities_and_subsets(opened):
    rows = draw_rows(opened, 8, seed=0)
    shown = [inspect_row(opened, entry, row) for entry, row in rows]
    assert set(Counter(sample.modality for sample in shown[:4]).values()) == {1}
    assert len({(sample.entry, sample.subset) for sample in shown}) >= 6
    assert len(set(ids_of(opened, rows))) == 8


def test_draws_repeat_with_the_seed_and_differ_without(opened):
    first = ids_of(opened, draw_rows(opened, 12, seed=0))
    assert first == ids_of(opened, draw_rows(opened, 12, seed=0))
    assert first != ids_of(opened, draw_rows(opened, 12, seed=1))


def test_a_draw_larger_than_the_mixture_gives_every_admitted_row_once(opened):
    rows = ids_of(opened, draw_rows(opened, 100_000, seed=0))
    assert len(rows) == len(set(rows)) == sum(len(entry) for entry in opened.entries)


def test_what_is_shown_is_what_encode_sample_gives(opened):
    for entry, row in draw_rows(opened, 12, seed=3):
        shown = inspect_row(opened, entry, row)
        manifest = entry.manifest
        published = manifest.row(row)
        store = MediaStore(manifest.data_root)
        media = [store.read(locator) for locator in published.media]
        sample = opened.processor.encode_sample(shown.messages, media[: len(shown.media)])
        for name in ("input_ids", "supervised", "tiles"):
            assert np.array_equal(getattr(shown.sample, name), getattr(sample, name))
        assert shown.lengths == shown.planned


@pytest.mark.parametrize("image", [{}, {"random_tiles": True, "upscale": "always"}])
def test_lengths_are_the_planned_ones_for_other_orders_and_budgets(recipe_file, tmp_path, image):
    recipe = yaml.safe_load(Path(recipe_file).read_text())
    recipe["image"] |= image
    recipe["limits"] = {"max_turns": 2, "turn_orders": 2}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    opened = open_mixture(str(tmp_path / "recipe.yaml"))
    reordered = cut = 0
    for entry, row in draw_rows(opened, 100, seed=3):
        shown = inspect_row(opened, entry, row)
        assert shown.lengths == shown.planned
        published = entry.manifest.row(row).messages
        assert len(shown.messages) + shown.cut == len(published)
        reordered += shown.messages != published[: len(shown.messages)]
        cut += shown.cut > 0
    assert reordered
    assert cut


def test_a_long_sample_is_shown_as_far_as_training_sees_it(opened):
    (entry, row), (_, too_long) = find_rows(opened, [ODD.format(2), ODD.format(3)])
    cut = inspect_row(opened, entry, row)
    assert (len(cut.messages), cut.cut) == (2, 2)
    assert cut.lengths.tokens <= 600
    whole = inspect_row(opened, entry, too_long)
    assert whole.planned is None
    assert whole.lengths.tokens > 600


def test_a_sample_left_out_by_prepare_is_found_in_the_ledger(opened):
    with pytest.raises(DataError, match=r"prepare left it out as corrupt_media .*ledger\.jsonl"):
        find_rows(opened, [ODD.format(4)])


def test_an_unknown_sample_is_told_with_the_nearest(opened):
    with pytest.raises(DataError, match=f"the nearest are '{ODD.format(0)}'"):
        find_rows(opened, [ODD.format(99)])
    with pytest.raises(DataError, match="there is none like it"):
        find_rows(opened, ["\u2603"])


def test_a_missing_medium_is_kept_as_an_error_in_place(lost_media, recipe_file):
    opened = open_mixture("m4_digits", recipes=[recipe_file], data=lost_media)
    entry, row = draw_rows(opened, 1, seed=0)[0]
    shown = inspect_row(opened, entry, row)
    assert shown.sample is None
    assert shown.lengths is None
    assert shown.error.startswith("missing_media: ")
    assert shown.media[0].source is None
    assert shown.messages  # the conversation is still there to read
