"""Between map and reduce: samples that name their media meet what became of these."""

import json
from collections import Counter
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from smolvlm2.data.ledger import LedgerLine, LeftOutError
from smolvlm2.data.media_facts import MediaFacts
from smolvlm2.data.media_index import MediaIndex
from smolvlm2.data.part_files import (
    MEDIA_FIELDS,
    RowPartWriter,
    content_key,
    media_columns,
    read_batches,
    read_keys,
)
from smolvlm2.data.workplace import Workplace


@dataclass(kw_only=True)
class JoinResult:
    """What the join of one part adds to its account."""

    part: Path
    """Start of the names of the joined part's files."""
    repairs: Counter[str] = field(default_factory=Counter)


def join_rows(place: Workplace, file: str, index: Path) -> JoinResult:
    """Look up the media of one part's samples.

    Args:
        place: Folders and adapter.
        file: The file of rows, relative to the raw folder.
        index: Finished index of all media.
    """
    part = place.part(file)
    result = JoinResult(part=part.with_name(f"{part.name}.joined"))
    keys, first = read_keys(part), 0
    with RowPartWriter(result.part) as out, closing(MediaIndex(index)) as media:
        for batch in read_batches(part):
            found = _join(batch, keys[first : first + batch.num_rows], file, media, out, result)
            out.add_batch(*found)
            first += batch.num_rows
    return result


def _join(
    batch: pa.RecordBatch,
    keys: np.ndarray,
    file: str,
    media: MediaIndex,
    out: RowPartWriter,
    result: JoinResult,
) -> tuple[pa.RecordBatch, np.ndarray]:
    """The samples whose media were found, with their keys."""
    columns = {name: batch.column(name).to_pylist() for name in MEDIA_FIELDS}
    kept = np.ones(batch.num_rows, dtype=bool)
    for place, text in enumerate(batch.column("wanted").to_pylist()):
        if text is None:
            continue
        wanted = json.loads(text)
        try:
            facts = [_find(each, media) for each in wanted["media"]]
        except LeftOutError as problem:
            line = LedgerLine(
                file=file,
                row=batch.column("row")[place].as_py(),
                sample_id=batch.column("sample_id")[place].as_py(),
                reason=problem.reason,
                detail=problem.detail,
            )
            out.leave_out(line)
            kept[place] = False
            continue
        result.repairs.update(wanted["repairs"])
        for name, value in zip(MEDIA_FIELDS, media_columns(facts), strict=True):
            columns[name][place] = value
        content = content_key(keys["content"][place].tobytes(), [each.digest for each in facts])
        keys["content"][place] = np.frombuffer(content, dtype="<u8")
    columns["wanted"] = [None] * batch.num_rows
    for name, values in columns.items():
        column = batch.schema.get_field_index(name)
        kind = batch.schema.field(column)
        batch = batch.set_column(column, kind, pa.array(values, kind.type))
    return (batch, keys) if kept.all() else (batch.filter(pa.array(kept)), keys[kept])


def _find(wanted: dict[str, Any], media: MediaIndex) -> MediaFacts:
    if "facts" in wanted:
        return MediaFacts.from_json(wanted["facts"])
    return media.find(wanted)
