"""The backend of our own models: batches that the device has no room for."""

import pytest
import torch

from smolvlm2.errors import ConfigError
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
