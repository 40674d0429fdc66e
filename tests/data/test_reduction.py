"""The reduce: nothing is lost without a line."""

import numpy as np
import pytest

from smolvlm2.data.geometry import COLUMNS
from smolvlm2.data.inputs import InputStamp
from smolvlm2.data.manifest import MANIFEST_FILE
from smolvlm2.data.media_facts import MediaFacts
from smolvlm2.data.part_files import Account, RowPartWriter, SampleRow, read_batches
from smolvlm2.data.reduction import ReducedPart, Reduction, _GeometryWriter
from smolvlm2.errors import DataError

STAMP = InputStamp(recipe="", files=())


def write_part(folder, count, rows_read, name="part"):
    """A part of text rows, every fourth of them equal to the first."""
    with RowPartWriter(folder / name) as out:
        for number in range(count):
            row = SampleRow(
                row=number, sample_id=f"s/{number % 3}", messages=f"[{number % 4 and number}]",
                roles=[1, 2], subset=f"subset {number % 2}", flags=0, media_message=[],
            )  # fmt: skip
            out.add_sample(row, list[MediaFacts]())
    account = Account(stamp=STAMP, rows_read=rows_read)
    return ReducedPart(
        name=f"{name}.json", account=account, ledgers=(folder / name,), rows=folder / name
    )


def test_rows_that_are_neither_kept_nor_in_the_ledger_are_an_error(tmp_path):
    part = write_part(tmp_path, 8, rows_read=9)
    with pytest.raises(DataError, match="9 rows of s were read, but 7 are kept and 1 in the"):
        Reduction("s", tmp_path).run([part])


def test_batches_of_any_size_give_the_same_files(tmp_path, monkeypatch, tree_bytes):
    results = []
    for batch, flush in ((16384, 4096), (3, 2), (2, 7)):
        monkeypatch.setattr("smolvlm2.data.reduction._BATCH_ROWS", batch)
        monkeypatch.setattr("smolvlm2.data.part_files._FLUSH_ROWS", flush)
        folder = tmp_path / f"{batch}"
        (folder / "out").mkdir(parents=True)
        parts = [write_part(folder, 10, 10, "a"), write_part(folder, 7, 7, "b")]
        facts = Reduction("s", folder / "out").run(parts)
        files = tree_bytes(folder / "out", skip=(MANIFEST_FILE,))
        results.append((facts["rows_left_out"], facts["subsets"], files))
    assert results[0] == results[1] == results[2]
    assert results[0][0] == {"duplicate": 9}


def test_the_reduce_keeps_no_batch_alive(tmp_path):
    part = write_part(tmp_path, 8, rows_read=8)
    columns = _GeometryWriter()
    for batch in read_batches(part.rows):
        columns.add(batch, np.zeros(batch.num_rows))
    chunks = [chunk for chunks in columns._chunks.values() for chunk in chunks]
    assert len(chunks) == len(COLUMNS)
    # A view of a column would hold the texts of its batch: five gigabytes of them, once.
    assert all(chunk.flags.owndata for chunk in chunks)
