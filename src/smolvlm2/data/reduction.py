"""The reduce of prepare: parts in file order -> manifest, geometry, ledger, and the account.

What is compared between rows is held as columns of hashes, 40 bytes a row; everything else passes
through in batches.
"""

import hashlib
import heapq
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import pyarrow as pa

from smolvlm2.data.geometry import COLUMNS, MEDIA_COLUMNS, OFFSET_COLUMNS
from smolvlm2.data.ledger import LedgerLine
from smolvlm2.data.manifest import GEOMETRY_FOLDER, LEDGER_FILE, MANIFEST_FILE, MANIFEST_SCHEMA
from smolvlm2.data.media import VIDEO
from smolvlm2.data.part_files import Account, read_batches, read_keys, read_ledger, read_lines
from smolvlm2.data.uniqueness import FileKeys, SampleKeys
from smolvlm2.errors import DataError

_BATCH_ROWS = 2048
_BATCH_BYTES = 1 << 22
"""Of a batch of the manifest: small, so that what belongs to a row lies close together."""
_DUPLICATES_FILE = "duplicates.partial"


@dataclass(frozen=True, kw_only=True)
class ReducedPart:
    """One input as the reduce sees it."""

    name: str
    """The input's name; of rows the file, relative to the raw folder."""
    account: Account
    """Of the map."""
    ledgers: tuple[Path, ...]
    """Starts of the names of the parts whose ledger lines belong to the input."""
    rows: Path | None = None
    """Start of the name of the part with its samples; None for media."""


class Reduction:
    """Joins the parts of one source; the only place that sees several files at once."""

    def __init__(self, source: str, folder: Path) -> None:
        """Begin with nothing.

        Args:
            source: Name of the source.
            folder: Where the results go.
        """
        self._source = source
        self._folder = folder
        self._rows_read = 0
        self._repairs: Counter[str] = Counter()
        self._rows_left_out: Counter[str] = Counter()
        self._others_left_out: Counter[str] = Counter()
        self._not_media = 0
        self._subsets: dict[str, int] = {}
        self._geometry = _GeometryWriter()

    def run(self, parts: Sequence[ReducedPart]) -> dict[str, Any]:
        """Write ``manifest.arrow``, ``ledger.jsonl`` and ``geometry``.

        Args:
            parts: Archives and loose media, then files of rows in the order that decides which
                duplicate stays.

        Returns:
            Counts, subsets and the content hash, for ``source.json``.

        Raises:
            DataError: Rows kept and rows left out are not the rows read.
        """
        files = [(part.name, part.rows) for part in parts if part.rows is not None]
        keys = SampleKeys([FileKeys(name, read_keys(rows)) for name, rows in files])
        repeated = self._folder / _DUPLICATES_FILE
        first = 0
        with (
            (self._folder / LEDGER_FILE).open("w", encoding="utf-8") as ledger,
            _ManifestWriter(self._folder / MANIFEST_FILE) as manifest,
        ):
            for part in parts:
                self._add_account(part.account)
                self._write_ledger(ledger, part.account.problems)
                lines = [read_ledger(each) for each in part.ledgers]
                if part.rows is not None:
                    with repeated.open("w", encoding="utf-8") as duplicates:
                        first = self._take_rows(part, keys, first, manifest, duplicates)
                    lines.append(read_lines(repeated))
                merged = heapq.merge(*lines, key=lambda line: -1 if line.row is None else line.row)
                self._write_ledger(ledger, merged)
        repeated.unlink(missing_ok=True)
        kept = self._geometry.save(self._folder / GEOMETRY_FOLDER)
        self._check(kept)
        return {
            "rows_read": self._rows_read,
            "rows_kept": kept,
            "media_kept": self._geometry.media,
            "rows_left_out": dict(sorted(self._rows_left_out.items())),
            "others_left_out": dict(sorted(self._others_left_out.items())),
            "not_media": self._not_media,
            "repairs": dict(sorted(self._repairs.items())),
            "subsets": list(self._subsets),
            "hash": content_hash(self._folder),
        }

    def _add_account(self, account: Account) -> None:
        self._rows_read += account.rows_read
        self._not_media += account.not_media
        self._repairs.update(account.repairs)

    def _check(self, kept: int) -> None:
        """Compare what went in with what came out."""
        left_out = sum(self._rows_left_out.values())
        if self._rows_read != kept + left_out:
            raise DataError(
                f"{self._folder}: {self._rows_read} rows of {self._source} were read, but {kept} "
                f"are kept and {left_out} in the ledger; expected an equal sum. A part is damaged: "
                "remove the folder and prepare again"
            )

    def _write_ledger(self, ledger: TextIO, lines: Iterable[LedgerLine]) -> None:
        for line in lines:
            counter = self._others_left_out if line.row is None else self._rows_left_out
            counter[line.reason] += 1
            # Names in archives may hold half surrogate pairs: those are written escaped.
            text = json.dumps(line.to_json(self._source), ensure_ascii=False)
            ledger.write(text.encode("utf-8", "backslashreplace").decode("utf-8") + "\n")

    def _take_rows(
        self,
        part: ReducedPart,
        keys: SampleKeys,
        first: int,
        manifest: "_ManifestWriter",
        duplicates: TextIO,
    ) -> int:
        """Write the samples of a part that stay; returns the number of the next part's first."""
        assert part.rows is not None
        for batch in read_batches(part.rows):
            numbers = np.arange(first, first + batch.num_rows)
            first += batch.num_rows
            kept = keys.kept[numbers]
            if not kept.all():
                self._write_duplicates(part.name, batch, numbers, keys, duplicates)
                batch, numbers = batch.filter(pa.array(kept)), numbers[kept]
            if keys.occurrence[numbers].any():
                names = batch.column("sample_id").to_pylist()
                names = [keys.unique_id(*each) for each in zip(names, numbers, strict=True)]
                column = batch.schema.get_field_index("sample_id")
                batch = batch.set_column(column, "sample_id", pa.array(names, pa.string()))
            manifest.add(batch.select(MANIFEST_SCHEMA.names))
            self._geometry.add(batch, self._subset_numbers(batch))
        return first

    def _write_duplicates(
        self,
        file: str,
        batch: pa.RecordBatch,
        numbers: np.ndarray,
        keys: SampleKeys,
        duplicates: TextIO,
    ) -> None:
        for place in np.flatnonzero(~keys.kept[numbers]).tolist():
            line = LedgerLine(
                file=file,
                row=batch.column("row")[place].as_py(),
                sample_id=batch.column("sample_id")[place].as_py(),
                reason="duplicate",
                detail="same conversation and media as "
                + keys.where(int(keys.first[numbers[place]])),
            )
            duplicates.write(json.dumps(vars(line)) + "\n")

    def _subset_numbers(self, batch: pa.RecordBatch) -> np.ndarray:
        """Index of each row's subset, in order of first appearance."""
        column = batch.column("subset").dictionary_encode()
        known = [
            self._subsets.setdefault(name, len(self._subsets))
            for name in column.dictionary.to_pylist()
        ]
        return np.array(known, dtype=np.int32)[column.indices.to_numpy()]


class _ManifestWriter:
    """Joins small batches and writes them; memory is that of one batch, whatever its rows hold."""

    def __init__(self, path: Path) -> None:
        self._sink = pa.OSFile(str(path), "wb")
        self._writer = pa.ipc.new_file(self._sink, MANIFEST_SCHEMA)
        self._waiting: list[pa.RecordBatch] = []

    def add(self, batch: pa.RecordBatch) -> None:
        self._waiting.append(batch)
        rows = sum(each.num_rows for each in self._waiting)
        if rows >= _BATCH_ROWS or sum(each.nbytes for each in self._waiting) >= _BATCH_BYTES:
            self._flush()

    def _flush(self) -> None:
        table = pa.Table.from_batches(self._waiting, MANIFEST_SCHEMA).combine_chunks()
        rows = max(_BATCH_BYTES * table.num_rows // max(table.nbytes, 1), 1)
        for batch in table.to_batches(max_chunksize=min(rows, _BATCH_ROWS)):
            self._writer.write(batch)
        self._waiting = []

    def __enter__(self) -> "_ManifestWriter":
        return self

    def __exit__(self, *_: object) -> None:
        self._flush()
        self._writer.close()
        self._sink.close()


class _GeometryWriter:
    """Collects the columns of the geometry; numbers only."""

    def __init__(self) -> None:
        self._chunks: dict[str, list[np.ndarray]] = {name: [] for name in COLUMNS}
        self.media = 0
        """In the rows added."""

    def add(self, batch: pa.RecordBatch, subsets: np.ndarray) -> None:
        media = _lengths(batch.column("media_kind"))
        kinds = batch.column("media_kind").flatten().to_numpy()
        owners = np.repeat(np.arange(len(media)), media)
        clips = np.bincount(owners, weights=kinds == VIDEO, minlength=len(media))
        self._chunks["media_offsets"].append(media)
        self._chunks["message_offsets"].append(_lengths(batch.column("roles")))
        # A clip makes a row a video's, whatever stands beside it.
        self._append("row_modality", np.where(clips > 0, 3, np.minimum(media, 2)))
        self._append("row_flags", batch.column("flags").to_numpy())
        self._append("row_subset", subsets)
        for name in (*MEDIA_COLUMNS, "message_role"):
            column = batch.column("roles" if name == "message_role" else name)
            self._append(name, column.flatten().to_numpy())
        self.media += len(kinds)

    def _append(self, name: str, values: np.ndarray) -> None:
        # Copied: a view would keep the whole batch in memory, texts and all.
        self._chunks[name].append(values.astype(COLUMNS[name], copy=True))

    def save(self, folder: Path) -> int:
        """Write the columns, each freed once it is on disk; returns the number of rows."""
        folder.mkdir(exist_ok=True)
        rows = 0
        for name, dtype in COLUMNS.items():
            column = np.concatenate([np.zeros(0, dtype=dtype), *self._chunks.pop(name)])
            if name in OFFSET_COLUMNS:
                rows = len(column)
                column = np.concatenate([[0], np.cumsum(column)])
            np.save(folder / f"{name}.npy", column.astype(dtype, copy=False))
        return rows


def _lengths(lists: pa.ListArray) -> np.ndarray:
    return lists.value_lengths().to_numpy().astype(np.int64)


def content_hash(folder: Path) -> str:
    """Hash of the manifest and the geometry of a source, hexadecimal."""
    digest = hashlib.sha256()
    columns = sorted((folder / GEOMETRY_FOLDER).glob("*.npy"))
    for path in [folder / MANIFEST_FILE, *columns]:
        digest.update(path.name.encode())
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()[:32]
