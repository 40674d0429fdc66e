"""A prepared source, read row by row without keeping an object per row in memory."""

import json
import mmap
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from smolvlm2.data.geometry import Geometry
from smolvlm2.data.media import MediaLocator
from smolvlm2.errors import DataError, DataNotFoundError

MANIFEST_FILE = "manifest.arrow"
SOURCE_FILE = "source.json"
LEDGER_FILE = "ledger.jsonl"
GEOMETRY_FOLDER = "geometry"
CONTAMINATION_FILE = "contamination.json"
MANIFEST_SCHEMA = pa.schema(
    [
        ("flags", pa.uint8()),
        ("sample_id", pa.string()),
        ("media", pa.large_string()),
        ("messages", pa.large_string()),
    ]
)
"""The small columns stand together: a cold read of a row touches few places on the disk."""


@dataclass(frozen=True)
class ManifestRow:
    """One sample."""

    sample_id: str
    """``<source>/<native id or file:row>``."""
    messages: list[dict[str, Any]]
    """``role`` and ``content``, a list of ``text``, ``image`` and ``video`` parts."""
    media: list[MediaLocator]
    """In the order in which the parts stand."""
    source: str
    """Name of the source."""


class Manifest:
    """Rows and geometry of one source; memory-mapped, opened again in a worker."""

    def __init__(
        self,
        folder: Path,
        tokenizer_key: str | None,
        table: pa.Table,
        facts: dict[str, Any],
        pages: mmap.mmap,
    ) -> None:
        """Use ``Manifest.open``."""
        self.folder = folder
        self.tokenizer_key = tokenizer_key
        self._table = table
        self._pages: mmap.mmap | None = pages
        self._facts = facts
        self.geometry = Geometry.open(folder / GEOMETRY_FOLDER, tokenizer_key)
        if len(self.geometry) != len(self):
            raise DataError(
                f"{folder}: manifest.arrow has {len(self)} rows and the geometry "
                f"{len(self.geometry)}; expected equal numbers, remove the folder and prepare again"
            )

    @classmethod
    def open(cls, folder: str | Path, tokenizer_key: str | None = None) -> "Manifest":
        """Open ``data/prepared/<source>``.

        Args:
            folder: A finished source.
            tokenizer_key: ``Tokenizer.key`` of the tokenizer in use; None opens the geometry
                without its token columns.

        Raises:
            DataNotFoundError: Nothing prepared here, or not for this tokenizer.
            DataError: The files disagree or are damaged.
        """
        folder = Path(folder)
        for name in (MANIFEST_FILE, SOURCE_FILE):
            if not (folder / name).is_file():
                raise DataNotFoundError(
                    f"{folder}: {name} is missing, so this is no prepared source; run: "
                    f"smolvlm2 prepare {folder.name}"
                )
        try:
            pages = _map_file(folder / MANIFEST_FILE)
            table = pa.ipc.open_file(pa.py_buffer(pages)).read_all()
            facts = json.loads((folder / SOURCE_FILE).read_text(encoding="utf-8"))
        except (pa.ArrowInvalid, ValueError) as error:
            raise DataError(
                f"{folder}: cannot be read ({error}); remove the folder and prepare it again"
            ) from error
        if not table.schema.equals(MANIFEST_SCHEMA) or facts.get("rows_kept") != table.num_rows:
            raise DataError(
                f"{folder}: manifest.arrow has columns {table.schema.names} and {table.num_rows} "
                f"rows, expected {MANIFEST_SCHEMA.names} and {facts.get('rows_kept')} rows as "
                f"{SOURCE_FILE} says; remove the folder and prepare it again"
            )
        return cls(folder, tokenizer_key, table, facts, pages)

    def __reduce__(self) -> tuple[Any, ...]:
        return _open_again, (self.folder, self.tokenizer_key, self.hash)

    def __len__(self) -> int:
        return int(self._table.num_rows)

    @property
    def source(self) -> str:
        """Name of the source."""
        return str(self._facts["source"])

    @property
    def hash(self) -> str:
        """Hash of all rows and geometry, hexadecimal; token columns are keyed on their own."""
        return str(self._facts["hash"])

    @property
    def base_hash(self) -> str:
        """Hash of the source as it was prepared, whatever was made of its rows since."""
        return self.hash

    def holding(self, rows: np.ndarray) -> np.ndarray:
        """Rows of this manifest that hold the given rows of the source as it was prepared."""
        return rows

    @property
    def subsets(self) -> list[str]:
        """Names that ``geometry.row_subset`` counts in."""
        return list(self._facts["subsets"])

    @property
    def data_root(self) -> Path:
        """The folder that media locators are relative to: two above the source's own."""
        return self.folder.parent.parent

    @property
    def sample_ids(self) -> pa.ChunkedArray:
        """Ids of all rows as prepared, memory-mapped."""
        return self._table.column("sample_id")

    def find(self, sample_id: str) -> int | None:
        """The row with an id; None where there is none. Goes through the column."""
        row = pc.index(self._table.column("sample_id"), sample_id).as_py()
        return row if row >= 0 else None

    def sample_id(self, index: int) -> str:
        """The id of row ``index``, without reading the rest of it."""
        return str(self._table.column("sample_id")[self._place(index)].as_py())

    def row(self, index: int) -> ManifestRow:
        """Read one row.

        Raises:
            IndexError: ``index`` is not below the length (negative ones count from the end).
        """
        place = self._place(index)
        self._expect_single_rows()
        names = ("sample_id", "messages", "media")
        sample_id, messages, media = (self._table.column(n)[place].as_py() for n in names)
        return ManifestRow(
            sample_id=sample_id,
            messages=json.loads(messages),
            media=[MediaLocator.from_json(entry) for entry in json.loads(media)],
            source=self.source,
        )

    def messages(self, rows: Iterable[int]) -> list[list[dict[str, Any]]]:
        """The messages of many rows, without reading the rest of them."""
        column = self._table.column("messages")
        return [json.loads(column[int(row)].as_py()) for row in rows]

    def _expect_single_rows(self) -> None:
        """Stop the system from reading far ahead, once somebody asks for single rows.

        With a disk that reads 8 MB ahead a cold row of 10 kB took 15 ms, and takes 1 so.
        Whoever goes through a column keeps the reading ahead.
        """
        if self._pages is not None and hasattr(mmap, "MADV_RANDOM"):
            self._pages.madvise(mmap.MADV_RANDOM)
        self._pages = None

    def _place(self, index: int) -> int:
        index = int(index)
        if not -len(self) <= index < len(self):
            raise IndexError(f"{self.folder}: row {index} of {len(self)}")
        return index % len(self)


def _open_again(folder: Path, tokenizer_key: str | None, content: str) -> Manifest:
    """In another process: its rows are asked for by number, so they must be the same."""
    manifest = Manifest.open(folder, tokenizer_key)
    if manifest.hash != content:
        raise DataError(
            f"{folder}: was prepared again, with other rows, while it was in use; stop what uses "
            "it and start that again (a run: with --resume --replan)"
        )
    return manifest


def _map_file(path: Path) -> mmap.mmap:
    with path.open("rb") as file:
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
