"""The reduce of prepare: parts in file order -> manifest, geometry, ledger, and the account."""

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from smolvlm2.data.geometry import COLUMNS, MEDIA_COLUMNS, Geometry
from smolvlm2.data.ledger import LedgerLine
from smolvlm2.data.manifest import (
    GEOMETRY_FOLDER,
    LEDGER_FILE,
    MANIFEST_FILE,
    MANIFEST_SCHEMA,
)
from smolvlm2.data.media import KINDS
from smolvlm2.data.parts import Account, Workplace

_BATCH_ROWS = 16384


class Reduction:
    """Joins the parts of one source; the only place that sees several files at once."""

    def __init__(self, place: Workplace) -> None:
        """Begin with nothing.

        Args:
            place: Folders and adapter; parts are read from and results written to them.
        """
        self.place = place
        self.rows_read = 0
        self.repairs: Counter[str] = Counter()
        self.rows_left_out: Counter[str] = Counter()
        self.others_left_out: Counter[str] = Counter()
        self.subsets: dict[str, int] = {}
        self._ids: set[str] = set()
        self._fingerprints: dict[str, str] = {}
        self._chunks: dict[str, list[np.ndarray]] = {name: [] for name in COLUMNS}

    def run(self, archives: Sequence[str], files: Sequence[str]) -> dict[str, Any]:
        """Write ``manifest.arrow``, ``ledger.jsonl`` and ``geometry``.

        Args:
            archives: Archives with a part, relative to the raw folder, in order.
            files: Record files with a part, in the order that decides which duplicate stays.

        Returns:
            Counts, subsets and the content hash, for ``source.json``.
        """
        folder = self.place.folder
        with (
            (folder / LEDGER_FILE).open("w", encoding="utf-8") as ledger,
            pa.OSFile(str(folder / MANIFEST_FILE), "wb") as sink,
            pa.ipc.new_file(sink, MANIFEST_SCHEMA) as writer,
        ):
            for archive in archives:
                account = Account.load(self.place.part(archive).with_suffix(".json"))
                self._write_ledger(ledger, account.left_out)
            waiting: list[dict[str, Any]] = []
            for file in files:
                part = self.place.part(file)
                account = Account.load(part.with_suffix(".json"))
                self.rows_read += account.rows_read
                self.repairs.update(account.repairs)
                for rows in _part_batches(part.with_suffix(".arrow")):
                    kept = [row for row in rows if self._admit(file, row, account.left_out)]
                    self._collect(kept)
                    waiting += [{name: row[name] for name in MANIFEST_SCHEMA.names} for row in kept]
                    while len(waiting) >= _BATCH_ROWS:
                        _write_rows(writer, waiting[:_BATCH_ROWS])
                        del waiting[:_BATCH_ROWS]
                self._write_ledger(ledger, account.left_out)
            _write_rows(writer, waiting)
        geometry = self._geometry()
        geometry.save(folder / GEOMETRY_FOLDER)
        kept_rows, lost_rows = len(geometry), sum(self.rows_left_out.values())
        assert self.rows_read == kept_rows + lost_rows, (self.rows_read, kept_rows, lost_rows)
        return {
            "rows_read": self.rows_read,
            "rows_kept": kept_rows,
            "media_kept": len(geometry.media_kind),
            "rows_left_out": dict(sorted(self.rows_left_out.items())),
            "others_left_out": dict(sorted(self.others_left_out.items())),
            "repairs": dict(sorted(self.repairs.items())),
            "subsets": list(self.subsets),
            "hash": content_hash(folder),
        }

    def _write_ledger(self, ledger: Any, lines: list[LedgerLine]) -> None:
        for line in sorted(lines, key=lambda line: (line.row is not None, line.row or 0)):
            counter = self.others_left_out if line.row is None else self.rows_left_out
            counter[line.reason] += 1
            value = line.to_json(self.place.adapter.source)
            # Names in archives may hold half surrogate pairs: those are written escaped.
            text = json.dumps(value, ensure_ascii=False)
            ledger.write(text.encode("utf-8", "backslashreplace").decode("utf-8") + "\n")

    def _admit(self, file: str, row: dict[str, Any], left_out: list[LedgerLine]) -> bool:
        """Refuse duplicates; make the ids of the others unique."""
        first = self._fingerprints.get(row["fingerprint"])
        if first is not None:
            line = LedgerLine(
                file=file,
                row=row["row"],
                sample_id=row["sample_id"],
                reason="duplicate",
                detail=f"same conversation and media as {first}",
            )
            left_out.append(line)
            return False
        wanted, number = row["sample_id"], 2
        while row["sample_id"] in self._ids:
            row["sample_id"] = f"{wanted}~{number}"
            number += 1
        self._ids.add(row["sample_id"])
        self._fingerprints[row["fingerprint"]] = row["sample_id"]
        facts = json.loads(row["media"])
        row["media"] = json.dumps([medium["locator"] for medium in facts], ensure_ascii=False)
        row["facts"] = facts
        return True

    def _collect(self, rows: list[dict[str, Any]]) -> None:
        """Append the numbers of some rows to the columns."""
        facts = [medium for row in rows for medium in row["facts"]]
        columns: dict[str, list[Any]] = {
            "media_offsets": [len(row["facts"]) for row in rows],
            "media_kind": [KINDS.index(medium["locator"]["kind"]) for medium in facts],
            "media_width": [medium["width"] for medium in facts],
            "media_height": [medium["height"] for medium in facts],
            "media_duration": [medium["duration"] for medium in facts],
            "media_fps": [medium["fps"] for medium in facts],
            "media_frames": [medium["frames"] for medium in facts],
            "media_message": [place for row in rows for place in row["media_message"]],
            "message_offsets": [len(row["roles"]) for row in rows],
            "message_role": [role for row in rows for role in row["roles"]],
            "row_modality": [_modality(row["facts"]) for row in rows],
            "row_flags": [row["flags"] for row in rows],
            "row_subset": [
                self.subsets.setdefault(row["subset"], len(self.subsets)) for row in rows
            ],
        }
        for name, values in columns.items():
            self._chunks[name].append(np.array(values, dtype=COLUMNS[name]))

    def _geometry(self) -> Geometry:
        columns = {
            name: np.concatenate([np.zeros(0, dtype=COLUMNS[name]), *chunks])
            for name, chunks in self._chunks.items()
        }
        for name in ("media_offsets", "message_offsets"):
            columns[name] = np.concatenate([[0], np.cumsum(columns[name])]).astype(COLUMNS[name])
        assert all(len(columns[name]) == columns["media_offsets"][-1] for name in MEDIA_COLUMNS)
        return Geometry(**columns)


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


def _modality(media: list[dict[str, Any]]) -> int:
    """Index into ``ROW_MODALITIES``."""
    if any(medium["locator"]["kind"] == "video" for medium in media):
        return 3
    return min(len(media), 2)


def _part_batches(path: Path) -> Iterator[list[dict[str, Any]]]:
    with pa.OSFile(str(path), "rb") as source, pa.ipc.open_stream(source) as reader:
        for batch in reader:
            yield batch.to_pylist()


def _write_rows(writer: pa.RecordBatchFileWriter, rows: list[dict[str, Any]]) -> None:
    if rows:
        writer.write(pa.RecordBatch.from_pylist(rows, MANIFEST_SCHEMA))
