"""A tiny world for this room: a tokenizer trained on the spot, and how its files are laid out."""

from pathlib import Path

import pytest
import tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers

from smolvlm2.processing.tokenizer import Tokenizer, extend_for_images

CORPUS = [
    "User: What is in this image?\nAssistant: A cat sits on the mat, and it is 3 years old.",
    "System: You are a helpful language and vision assistant.\n\nThe answer is below:\n\n- one\n- two",
    "You are provided the following series of three frames from a 0:00:03 [H:MM:SS] video.\n",
    "\nFrame from 00:01:\n\nFrame from 12:34: the row_1_col_1 is <b>bold</b>\n\n\n",
] * 4


@pytest.fixture(scope="session")
def base_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SmolLM2-shaped tokenizer of about 400 ids, with its first special tokens."""
    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=420,
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    folder = tmp_path_factory.mktemp("base_tokenizer")
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


@pytest.fixture(scope="session")
def tokenizer(base_folder: Path) -> Tokenizer:
    """The same, extended for images."""
    return extend_for_images(base_folder)
