"""``prepare --consume``: which raw files may go, and letting them go."""

import dataclasses
import json
import logging
from collections.abc import Sequence
from pathlib import Path

from smolvlm2.data.finishing import SHARDS_FOLDER
from smolvlm2.data.inputs import Input, consume
from smolvlm2.data.part_files import Account, read_batches
from smolvlm2.data.workplace import Workplace

logger = logging.getLogger(__name__)

KEEP_FILE = "DO_NOT_DELETE.txt"
"""Says in the folder of an unfinished source what lies in it alone."""


def is_consumable(item: Input, account: Account) -> bool:
    """Whether everything usable in an input lies in shards.

    A file that is read in place stays, as does one that could not be read in part or to its end (a
    new download may be whole) and one that gave no shard (annotations: small, and worth keeping).
    """
    return bool(
        account.shards
        and not account.read_in_place
        and not account.problems
        and not account.damaged
        and not item.is_consumed
    )


def release(place: Workplace, item: Input) -> None:
    """Delete the raw files of an input whose shards were verified; of loose media those in use."""
    if item.kind == "loose":
        kept = set()
        for batch in read_batches(place.part(item.name)):
            names, facts = batch.column(0).to_pylist(), batch.column(1).to_pylist()
            kept |= {n for n, f in zip(names, facts, strict=True) if "reason" not in json.loads(f)}
        files = tuple(file for file in item.files if file.file in kept)
        item = dataclasses.replace(item, files=files)
    keep = place.folder / KEEP_FILE
    if not keep.exists():
        keep.write_text(
            f"prepare --consume deleted files of {place.raw}; until it is done, what they held "
            "is here alone.\nRun the same command again: it goes on where it stopped.\n",
            encoding="utf-8",
        )
    consume(place.raw, item)


def warn_of_nothing_consumed(out: Path, raw: Path, inputs: Sequence[Input]) -> None:
    """Say that a source that was finished before keeps its raw files.

    What says that all of a file is in shards went when the source was finished.

    Args:
        out: Folder of the source.
        raw: Folder of its raw files.
        inputs: What it was made from.
    """
    repacked = any((out / SHARDS_FOLDER).glob("*.tar"))
    if repacked and not any(item.is_consumed for item in inputs):
        logger.warning(
            "%s was finished before without --consume, so nothing of %s is deleted; to delete what "
            "is repacked, remove the first and start again",
            out,
            raw,
        )
