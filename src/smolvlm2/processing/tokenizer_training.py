"""A small tokenizer of SmolLM2's kind, trained on the spot for demos and tests."""

from collections.abc import Iterable
from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

from smolvlm2.processing import prompt_strings as strings

SPECIAL_TOKENS = (strings.UNKNOWN, strings.BOS, strings.PAD)
"""Ids 0, 1 and 2 of SmolLM2: ``<|endoftext|>``, ``<|im_start|>``, ``<|im_end|>``."""


def train_base_tokenizer(texts: Iterable[str], folder: Path, *, vocab_size: int) -> int:
    """Train a byte-level BPE tokenizer that cuts digits, and write ``tokenizer.json``.

    Args:
        texts: What to train on.
        folder: Made if missing.
        vocab_size: Upper bound; at least 259 (the bytes and three special tokens).

    Returns:
        The size that was reached; fewer when the texts hold no more pairs to merge.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[AddedToken(token, normalized=False) for token in SPECIAL_TOKENS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    return tokenizer.get_vocab_size()
