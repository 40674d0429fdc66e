"""Token counts of every message, per tokenizer: the one part of the geometry that depends on it."""

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from smolvlm2.data.geometry import TOKEN_COLUMNS, token_folder
from smolvlm2.data.kept_results import put_in_place
from smolvlm2.data.manifest import GEOMETRY_FOLDER, Manifest
from smolvlm2.data.shards import is_abandoned, unfinished_name
from smolvlm2.processing.lengths import turn_tokens_of_many
from smolvlm2.processing.tokenizer import Tokenizer

CHUNK_ROWS = 8192
"""Rows counted by one task."""
BATCH_ROWS = 256
"""Rows handed to the tokenizer at once: its encodings take far more memory than their text."""


def row_chunks(rows: int) -> list[tuple[int, int]]:
    """First and last (exclusive) row of each task."""
    return [(start, min(start + CHUNK_ROWS, rows)) for start in range(0, rows, CHUNK_ROWS)]


def count_tokens(
    folder: Path, tokenizer: Tokenizer, start: int, stop: int
) -> tuple[np.ndarray, np.ndarray]:
    """Count the tokens of the messages of some rows.

    Args:
        folder: A source with manifest and geometry.
        tokenizer: That the geometry is for.
        start: First row.
        stop: Row after the last.

    Returns:
        Text tokens and supervised tokens, int32 ``(messages,)`` each.
    """
    manifest = Manifest.open(folder)
    text, supervised = [np.zeros(0, dtype=np.int32)], [np.zeros(0, dtype=np.int32)]
    for first in range(start, stop, BATCH_ROWS):
        rows = manifest.messages(range(first, min(first + BATCH_ROWS, stop)))
        for counts in turn_tokens_of_many(rows, tokenizer):
            text.append(counts.text)
            supervised.append(counts.supervised)
    return np.concatenate(text), np.concatenate(supervised)


def write_token_columns(
    folder: Path,
    tokenizer: Tokenizer,
    run: Callable[[list[tuple[Path, Tokenizer, int, int]]], Sequence[tuple[np.ndarray, ...]]],
) -> None:
    """Add the columns of one tokenizer to a source, whole or not at all.

    Args:
        folder: A source with manifest and geometry.
        tokenizer: That the columns are for.
        run: Calls ``count_tokens`` with each tuple of arguments, in order of the tuples.
    """
    target = token_folder(folder / GEOMETRY_FOLDER, tokenizer.key)
    for left in target.parent.glob(f"{target.name}.*.partial"):
        if is_abandoned(left):
            shutil.rmtree(left, ignore_errors=True)
    unfinished = target.with_name(unfinished_name(target.name))
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir()
    chunks = row_chunks(len(Manifest.open(folder)))
    counted = run([(folder, tokenizer, start, stop) for start, stop in chunks])
    for place, (name, dtype) in enumerate(TOKEN_COLUMNS.items()):
        parts = [np.zeros(0, dtype=dtype), *(chunk[place] for chunk in counted)]
        np.save(unfinished / f"{name}.npy", np.concatenate(parts))
    put_in_place(unfinished, target)
    shutil.rmtree(unfinished, ignore_errors=True)
