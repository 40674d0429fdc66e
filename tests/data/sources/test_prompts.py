"""Questions for caption-only data: the sample's id decides, nothing else."""

import pytest

from smolvlm2.data.sources import prompts
from smolvlm2.data.sources.prompts import MATHWRITING, MOVIECHAT, pick_prompt


def test_a_sample_gets_the_same_prompt_always():
    # Written down: another choice would give published samples other questions.
    picked = [pick_prompt(MOVIECHAT, f"film-{number}") for number in range(8)]
    assert [MOVIECHAT.index(prompt) for prompt in picked] == [0, 2, 0, 2, 1, 3, 2, 2]


def test_every_prompt_is_used_about_equally_often():
    picked = [pick_prompt(MATHWRITING, str(number)) for number in range(4000)]
    counts = [picked.count(prompt) for prompt in MATHWRITING]
    assert min(counts) > 900


def test_an_id_with_half_a_surrogate_pair_has_a_prompt():
    assert pick_prompt(MOVIECHAT, "\ud83d") in MOVIECHAT


@pytest.mark.parametrize("name", ["VRIPT", "SHAREGPT4VIDEO", "MOVIECHAT", "MATHWRITING"])
def test_prompts_are_different_plain_sentences(name):
    wordings = getattr(prompts, name)
    assert len(set(wordings)) == len(wordings) > 0
    assert all(text == text.strip() and text[-1] in ".?" and "<" not in text for text in wordings)
