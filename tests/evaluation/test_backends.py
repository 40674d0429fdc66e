"""The backend of our own models: batches that the device has no room for."""

import pytest
import torch

from smolvlm2.errors import ConfigError
from smolvlm2.evaluation.benchmark import Prompt
from smolvlm2.evaluation.runner import evaluate


class SmallDevice:
    """The model on a device that holds so many prompts at one time."""

    def __init__(self, model, rows):
        self.model, self.rows, self.asked = model, rows, []

    def generate(self, input_ids, **options):
        self.asked.append(len(input_ids))
        if len(input_ids) > self.rows:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nMore")
        return self.model.generate(input_ids, **options)


def test_a_batch_too_large_for_the_device_goes_in_halves(
    model, processor, benchmark_, data_root, caplog
):
    expected = evaluate(model, processor, benchmark_, data_root)
    small = SmallDevice(model, 2)
    found = evaluate(small, processor, benchmark_, data_root, batch_size=7)
    assert (found.accuracy, found.n, found.tokens) == (expected.accuracy, 7, expected.tokens)
    assert small.asked == [7, 3, 1, 2, 4, 2, 2]
    assert "7 questions with 23 tiles" in caplog.text
    with pytest.raises(ConfigError, match=r"'shade/\d' with \d tiles .* 2.00 GiB.*--max-frames"):
        evaluate(SmallDevice(model, 0), processor, benchmark_, data_root)


@pytest.mark.parametrize(("style", "least"), [("native", 1), ("lmms", 0), ("vlmevalkit", 0)])
def test_a_style_of_our_own_always_answers_something(
    model, processor, benchmark_, data_root, style, least
):
    """Others leave a model free to say nothing; each style has its own longest answer."""
    asked = {}

    class Listener:
        def generate(self, input_ids, **options):
            asked.update(options)
            return model.generate(input_ids, **options)

    text = Prompt(text="{question}")
    benchmark_.prompts = {"native": text, "lmms": text}
    benchmark_.prompts["vlmevalkit"] = Prompt(text="{question}", max_new_tokens=3)
    evaluate(Listener(), processor, benchmark_, data_root, style=style, limit=1)
    assert asked["min_new_tokens"] == least
    assert asked["max_new_tokens"] == (3 if style == "vlmevalkit" else benchmark_.max_new_tokens)
