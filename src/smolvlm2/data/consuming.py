"""``prepare --consume``: which raw files may go, and letting them go."""

import dataclasses
import json

from smolvlm2.data.inputs import Input, consume
from smolvlm2.data.part_files import Account, read_batches
from smolvlm2.data.workplace import Workplace


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
    consume(place.raw, item)
