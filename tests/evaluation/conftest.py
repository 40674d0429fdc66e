"""Seven questions on disk; a model and a processor that read pictures by their brightness."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from smolvlm2.errors import MediaError, MediaNotFoundError
from smolvlm2.evaluation.benchmark import Benchmark


class BrightnessProcessor:
    """One tile a picture; ids are the letters of the question."""

    def __init__(self) -> None:
        self.calls: list[list] = []

    def __call__(self, conversations, add_generation_prompt=False):
        assert add_generation_prompt
        self.calls.append(conversations)
        tiles, ids = [], []
        for conversation in conversations:
            items = conversation[-1]["content"]
            tiles += [self.read(item["path"]) for item in items if item["type"] == "image"]
            text = "".join(item["text"] for item in items if item["type"] == "text")
            ids.append([ord(letter) for letter in text])
        length = max(map(len, ids))
        padded = [[0] * (length - len(row)) + row for row in ids]
        return {
            "input_ids": torch.tensor(padded),
            "attention_mask": (torch.tensor(padded) > 0).long(),
            "pixel_values": torch.from_numpy(np.stack(tiles)),
        }

    @staticmethod
    def read(path: str) -> np.ndarray:
        if not Path(path).is_file():
            raise MediaNotFoundError(f"{path}: no such file")
        try:
            return np.asarray(Image.open(path)).transpose(2, 0, 1).copy()
        except OSError as error:
            raise MediaError(f"{path}: not an image") from error

    def decode(self, ids) -> str:
        return "".join(map(chr, ids))


class BrightnessModel:
    """Answers with the picture's value; can be killed after some batches."""

    def __init__(self, die_after: int | None = None) -> None:
        self.die_after = die_after
        self.batches: list[int] = []
        self.pixels: list[torch.Tensor] = []

    def generate(self, input_ids, *, attention_mask, pixel_values, max_new_tokens, min_new_tokens):
        if self.die_after is not None and len(self.batches) >= self.die_after:
            raise KeyboardInterrupt
        self.batches.append(len(input_ids))
        self.pixels.append(pixel_values)
        texts = [f" {int(tile.float().mean())}." for tile in pixel_values]
        return [[ord(letter) for letter in text][:max_new_tokens] for text in texts]


@pytest.fixture
def new_model() -> type[BrightnessModel]:
    return BrightnessModel


@pytest.fixture
def processor() -> BrightnessProcessor:
    return BrightnessProcessor()


@pytest.fixture
def benchmark_() -> Benchmark:
    return Benchmark(name="shade", file="shade.jsonl", modality="image", prompt_suffix="In short.")


@pytest.fixture
def data_root(tmp_path) -> Path:
    """Seven questions, of which the model gets five right."""
    root = tmp_path / "held_out"
    (root / "media").mkdir(parents=True)
    lines = []
    for number in range(7):
        Image.new("RGB", (4, 4), (number,) * 3).save(root / f"media/{number}.png")
        lines.append(
            {
                "question_id": f"shade/{number}",
                "messages": [
                    {
                        "role": "user",
                        "content": [{"type": "image"}, {"type": "text", "text": "How bright?"}],
                    }
                ],
                "media": [f"media/{number}.png"],
                "answer": str(number) if number < 5 else "99",
                "choices": ["0", "1"] if number % 2 else ["0", "1", "2", "3"],
                "question_type": "odd" if number % 2 else "even",
            }
        )
    (root / "shade.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n")
    return root
