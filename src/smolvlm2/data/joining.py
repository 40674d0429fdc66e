"""Between map and reduce: samples that name their media meet what became of these."""

import json
from collections import Counter
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from smolvlm2.data.ledger import LedgerLine, LeftOutError
from smolvlm2.data.media_facts import MediaFacts
from smolvlm2.data.media_index import MediaIndex
from smolvlm2.data.part_files import RowPartWriter, SampleRow, read_batches, read_keys
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
    settled = iter(read_keys(part))
    with RowPartWriter(result.part) as out, closing(MediaIndex(index)) as media:
        for batch in read_batches(part):
            for values in batch.to_pylist():
                if values["wanted"] is None:
                    out.add_settled(tuple(values.values()), next(settled).tobytes())
                else:
                    _join(values, file, media, out, result)
    return result


def _join(
    values: dict[str, Any], file: str, media: MediaIndex, out: RowPartWriter, result: JoinResult
) -> None:
    row = SampleRow(
        row=values["row"],
        sample_id=values["sample_id"],
        messages=values["messages"],
        roles=values["roles"],
        subset=values["subset"],
        flags=values["flags"],
        media_message=values["media_message"],
    )
    wanted = json.loads(values["wanted"])
    try:
        facts = [_find(each, media) for each in wanted["media"]]
    except LeftOutError as problem:
        line = LedgerLine(
            file=file,
            row=row.row,
            sample_id=row.sample_id,
            reason=problem.reason,
            detail=problem.detail,
        )
        out.leave_out(line)
        return
    result.repairs.update(wanted["repairs"])
    out.add_sample(row, facts)


def _find(wanted: dict[str, Any], media: MediaIndex) -> MediaFacts:
    if "facts" in wanted:
        return MediaFacts.from_json(wanted["facts"])
    return media.find(wanted)
