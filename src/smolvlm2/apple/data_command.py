"""``python mlx/test_data_loading.py``: does a folder train? Needs neither torch nor mlx."""

import argparse
import importlib.metadata
import platform
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from smolvlm2.apple.checking import check_samples
from smolvlm2.apple.commands import run_command
from smolvlm2.apple.drawn_samples import write_drawn_samples
from smolvlm2.apple.published import MODEL_SIZES, PUBLISHED
from smolvlm2.apple.samples import open_samples
from smolvlm2.processing.processor import Processor
from smolvlm2.processing.tokenizer import extend_for_images
from smolvlm2.processing.tokenizer_training import train_base_tokenizer

PACKAGES = ("av", "torchcodec", "torchvision", "pillow", "tokenizers", "mlx", "mlx-vlm", "torch")
ALPHABET = "User: Assistant: System: 0123456789"


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit status: 1 where rows cannot be used."""
    return run_command(lambda: _run(_parse(arguments)))


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="mlx/test_data_loading.py",
        description="Read, decode and encode every sample, and say what was checked. Without "
        "--data, pictures and clips are drawn and checked, to see that the pipeline works here.",
    )
    parser.add_argument("--data", type=Path, help="folder with train.jsonl, or prepared sources")
    parser.add_argument("--split", default="train", help="name of the .jsonl file")
    parser.add_argument("--model", metavar="PATH", help="whose tokenizer and tiles are used")
    parser.add_argument("--model-size", choices=MODEL_SIZES, help="the same, of a published model")
    parser.add_argument("--limit", type=int, help="only so many rows")
    return parser.parse_args(arguments)


def _run(options: argparse.Namespace) -> int:
    print(f"Python {platform.python_version()} on {platform.system()} {platform.machine()}")
    print("packages: " + ", ".join(f"{name} {_version(name)}" for name in PACKAGES))
    with tempfile.TemporaryDirectory() as scratch:
        folder = options.data
        if folder is None:
            folder = write_drawn_samples(Path(scratch) / "drawn", rows=12)
            print("no --data: checking 12 drawn samples; your own: --data FOLDER")
        samples = open_samples(folder, options.split)
        name = options.model
        if name is None and options.model_size is not None:
            name = PUBLISHED[options.model_size].repository
        processor = _stand_in(Path(scratch)) if name is None else _load(name)
        print(
            f"{folder}: {len(samples)} rows, tiles of {processor.tile_size} px, "
            f"{processor.tokens_per_tile} visual tokens each"
        )
        report = check_samples(samples, processor, limit=options.limit)
    print(report.describe(own_tokenizer=name is not None))
    return 1 if report.problems else 0


def _load(name: str) -> Processor:
    processor = Processor.from_pretrained(name)
    # The fast resize is torch's.
    processor.image = replace(processor.image, resample="exact")
    return processor


def _stand_in(scratch: Path) -> Processor:
    """The published tiles with a tokenizer trained on nothing: structure is all that it shows."""
    train_base_tokenizer([ALPHABET] * 8, scratch / "tokenizer", vocab_size=320)
    # Bytes are its tokens, several times as many as a model's: no context is too short for them.
    tokenizer = extend_for_images(scratch / "tokenizer", model_max_length=2**30)
    return Processor(tokenizer)


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "missing"
