"""Ids as chips: nothing lost, nothing invented."""

from dataclasses import replace

import numpy as np
import pytest

from smolvlm2.cli.inspect_samples import draw_rows, find_rows, inspect_row
from smolvlm2.cli.inspect_text import tokens_text
from smolvlm2.cli.inspect_tokens import chips, defects, tiles_of_media
from smolvlm2.cli.opened_mixture import open_mixture
from smolvlm2.processing.processor import Processor
from smolvlm2.processing.tiling import ImageSettings


@pytest.fixture(scope="module")
def opened(recipe_file):
    return open_mixture(recipe_file)


@pytest.fixture(scope="module")
def odd(opened):
    """The page of 2 x 3 tiles under hostile text."""
    entry, row = find_rows(opened, ["odd_pages/diagrams/train-00000-of-00001:0"])[0]
    return inspect_row(opened, entry, row)


def test_chips_cover_every_position_once_with_its_id_and_mask(opened):
    for entry, row in draw_rows(opened, 12, seed=0):
        sample = inspect_row(opened, entry, row).sample
        found = chips(sample, opened.processor.tokenizer)
        ids = [chip.token_id for chip in found for _ in range(chip.count)]
        mask = [chip.supervised for chip in found for _ in range(chip.count)]
        assert ids == sample.input_ids.tolist()
        assert mask == sample.supervised.tolist()
        assert [chip.start for chip in found] == np.cumsum(
            [0, *(chip.count for chip in found)]
        ).tolist()[:-1]


def test_each_tile_has_its_name_and_its_visual_tokens(opened, odd):
    found = chips(odd.sample, opened.processor.tokenizer)
    (tiles,) = tiles_of_media(odd.sample, found)
    crops = [f"<row_{r}_col_{c}>" for r in (1, 2) for c in (1, 2, 3)]
    assert [tile.name for tile in tiles] == [*crops, "<global-img>"]
    assert [(tile.row, tile.col) for tile in tiles] == [
        *((r, c) for r in range(2) for c in range(3)),
        (None, None),
    ]
    assert {tile.chip.count for tile in tiles} == {4}
    assert not defects(odd.sample, found, 4)


def test_names_beyond_the_vocabulary_are_read_as_text(opened, odd):
    wide = Processor(
        opened.processor.tokenizer,
        tile_size=32,
        tokens_per_tile=4,
        image=ImageSettings(longest_edge=32 * 8, upscale="always"),
    )
    sample = wide.encode_sample(odd.messages, [odd.media[0].source])
    (tiles,) = tiles_of_media(sample, chips(sample, wide.tokenizer))
    assert "<row_1_col_8>" in [tile.name for tile in tiles]


def test_frames_carry_the_times_that_the_prompt_says(opened):
    entry = next(entry for entry in opened.entries if entry.name == "video_digits")
    shown = inspect_row(opened, entry, int(entry.rows[0]))
    found = chips(shown.sample, opened.processor.tokenizer)
    (frames,) = tiles_of_media(shown.sample, found)
    assert len(frames) == 4
    assert [frame.time for frame in frames] == list(shown.sample.layouts[0].timestamps)


def test_typed_markers_are_text_and_half_characters_are_bytes(opened, odd):
    found = chips(odd.sample, opened.processor.tokenizer)
    assert sum(chip.kind == "visual" for chip in found) == 7
    text = b"".join(chip.data for chip in found if chip.kind == "text").decode()
    assert text.count("<image>") == 2
    assert any(chip.shown.startswith("\\x") for chip in found)
    assert all("\n" not in chip.shown for chip in found)


def test_defects_are_named(opened, odd):
    tokenizer = opened.processor.tokenizer
    found = chips(odd.sample, tokenizer)
    fewer = replace(odd.sample, tiles=odd.sample.tiles[:-1])
    assert defects(fewer, found, 4) == ["7 runs of visual tokens for 6 tiles"]
    assert "other than 5 visual tokens" in defects(odd.sample, found, 5)[0]
    silent = replace(odd.sample, supervised=np.zeros_like(odd.sample.supervised))
    assert "teaches nothing" in defects(silent, chips(silent, tokenizer), 4)[0]


def test_the_terminal_marks_answers_and_escapes_typed_markers(opened, odd):
    found = chips(odd.sample, opened.processor.tokenizer)
    plain = tokens_text(found, colour=False, specials=["<image>", "<end_of_utterance>"])
    assert "<image> x 4" in plain
    assert "\\<image>" in plain
    answers = [part.split("]]")[0] for part in plain.split("[[")[1:]]
    assert len(answers) == 2
    assert answers[0].startswith(" </script>")
    assert answers[0].endswith("fine<end_of_utterance>")
    assert answers[1] == " No.<end_of_utterance>"
    assert "naïve" in plain
    coloured = tokens_text(found, colour=True, specials=[])
    assert coloured.count("\x1b[0m") == 2
    assert "[[" not in coloured
