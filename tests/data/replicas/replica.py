"""What a miniature of a published data set is, and how its files are written."""

import io
import json
import tarfile
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from smolvlm2.data.sources.record import Adapter

IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
CAULDRON = pa.schema(
    [
        ("images", pa.list_(IMAGE)),
        (
            "texts",
            pa.list_(
                pa.struct(
                    [("user", pa.string()), ("assistant", pa.string()), ("source", pa.string())]
                )
            ),
        ),
    ]
)
TURNS = pa.list_(pa.struct([("from", pa.string()), ("value", pa.string())]))
ONEVISION = pa.schema(
    [
        ("id", pa.string()),
        ("image", IMAGE),
        ("conversations", TURNS),
        ("data_source", pa.string()),
    ]
)


@dataclass(frozen=True, kw_only=True)
class Replica:
    """A data set in small, and what must become of each of its rows."""

    adapter: Adapter
    folder: str
    """Below ``data/raw``."""
    write: Callable[[Path], None]
    """Writes the raw folder as published."""
    kept: Mapping[str, Sequence[str]]
    """Ids without the source's name, in the manifest's order, by subset."""
    left_out: Mapping[str, Sequence[tuple[int, str]]]
    """Row and reason, in order, by file."""
    others: Sequence[tuple[str, str | None, str]] = ()
    """File, member and reason of what is no row, sorted."""
    not_planned: frozenset[str] = frozenset()
    """Ids that the recipe leaves out: flagged, or longer than its context."""
    repairs: Mapping[str, int] = field(default_factory=dict)


def cauldron_row(images: Sequence[Any], *pairs: tuple[Any, Any]) -> dict[str, Any]:
    """Images, as bytes or None, and questions with answers."""
    return {
        "images": [{"bytes": data, "path": "lost.png"} for data in images],
        "texts": [{"user": q, "assistant": a, "source": "s"} for q, a in pairs],
    }


def talk(*texts: Any, first: str = "human") -> list[dict[str, Any]]:
    """Turns as LLaVA writes them, the two roles by turns."""
    roles = ("human", "gpt") if first == "human" else ("gpt", "human")
    return [{"from": roles[n % 2], "value": text} for n, text in enumerate(texts)]


def write_parquet(path: Path, rows: list[dict[str, Any]], schema: pa.Schema) -> None:
    """Rows in row groups of two, so that small files have several."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows, schema), path, row_group_size=2)


def write_json(path: Path, value: Any) -> None:
    """One JSON value."""
    write_bytes(path, json.dumps(value).encode())


def write_lines(path: Path, values: Sequence[Any]) -> None:
    """JSON lines; a text is written as it is."""
    lines = [value if isinstance(value, str) else json.dumps(value) for value in values]
    write_bytes(path, "\n".join(lines).encode())


def write_bytes(path: Path, data: bytes) -> None:
    """A file, its folder included."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def write_zip(path: Path, members: Mapping[str, bytes], *, stored: bool = True) -> None:
    """A zip; a name that ends with a slash is an empty folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED if stored else zipfile.ZIP_DEFLATED) as out:
        for name, data in members.items():
            out.writestr(name, data)


def write_tar(path: Path, members: Mapping[str, bytes]) -> None:
    """A tar, compressed where the name says so."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w:gz" if path.suffix in (".gz", ".tgz") else "w") as out:
        for name, data in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            out.addfile(member, io.BytesIO(data))
