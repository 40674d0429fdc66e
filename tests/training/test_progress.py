"""What a person sees while a stage trains."""

import sys

from smolvlm2.training.progress import Progress

LINE = {"step": 0, "loss": 2.0, "tokens_per_second": 10, "tiles_per_second": 1, "seconds": 1.0}


class Gone:
    """A standard error whose reader has ended."""

    def write(self, text: str) -> int:
        raise BrokenPipeError

    def flush(self) -> None:
        raise BrokenPipeError


def test_a_run_outlives_the_reader_of_its_progress(monkeypatch):
    with Progress(2, label="vision stage") as progress:
        monkeypatch.setattr(sys, "stderr", Gone())
        progress.update(LINE)
