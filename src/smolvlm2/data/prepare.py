"""Raw data sets -> prepared sources: a map over files, then one deterministic reduce."""

import hashlib
import json
import multiprocessing
import os
import shutil
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from smolvlm2.data.geometry import token_folder
from smolvlm2.data.manifest import GEOMETRY_FOLDER, MANIFEST_FILE, SOURCE_FILE
from smolvlm2.data.parts import Workplace, map_archive, map_rows
from smolvlm2.data.reduction import Reduction
from smolvlm2.data.sources.record import Adapter
from smolvlm2.data.token_columns import count_tokens, write_token_columns
from smolvlm2.errors import DataError, DataNotFoundError
from smolvlm2.processing.tokenizer import Tokenizer

VERSION = 1
"""Raised whenever the same inputs would give another manifest."""
INPUTS_FILE = "inputs.json"
Progress = Callable[[str, int, int], None]
"""Called with what is being done, how many are done, and of how many."""


@dataclass(frozen=True, kw_only=True)
class SourceSummary:
    """What became of a source; also stored beside it as ``source.json``."""

    source: str
    version: int
    adapter: str
    licence: str
    rows_read: int
    rows_kept: int
    media_kept: int
    rows_left_out: dict[str, int]
    """Rows by ledger reason; with ``rows_kept`` they add up to ``rows_read``."""
    others_left_out: dict[str, int]
    """Archive members and whole files by ledger reason."""
    repairs: dict[str, int]
    """Changes by kind."""
    subsets: list[str]
    """Names that ``geometry.row_subset`` counts in."""
    hash: str
    """Of manifest and geometry."""
    inputs: list[dict[str, Any]]
    """Path, size and SHA-256 of each raw file."""


def prepare_source(
    adapter: Adapter,
    raw: Path,
    out: Path,
    tokenizer: Tokenizer,
    workers: int = 0,
    progress: Progress | None = None,
) -> SourceSummary:
    """Prepare one source, or leave it alone when it is finished and its inputs are the same.

    Interrupted, it goes on with the files that are not mapped yet. With another tokenizer it only
    adds that tokenizer's columns. The result is the same for any number of workers.

    Args:
        adapter: What the data set looks like.
        raw: Its files as published; inside the data root.
        out: The source's own folder, two below the data root: ``data/prepared/<source>``.
        tokenizer: For the token columns.
        workers: Processes; 0 works in this one.
        progress: Told of every finished file.

    Raises:
        DataNotFoundError: ``raw`` is missing.
        DataError: No record files in it, a parquet file lacks a column, or ``raw`` is outside the
            data root, where locators could not reach it.
    """
    raw, out = Path(os.path.abspath(raw)), Path(os.path.abspath(out))
    archives, files = _list_inputs(adapter, raw)
    place = _workplace(adapter, raw, out)
    stamp = _read_stamp(raw, archives + files, [out / INPUTS_FILE, place.folder / INPUTS_FILE])
    stamp = {"version": VERSION, "adapter": repr(adapter), "raw": place.raw_prefix} | stamp
    report = progress or (lambda *_: None)
    if _is_finished(out, stamp):
        if not token_folder(out / GEOMETRY_FOLDER, tokenizer.key).is_dir():
            _add_tokens(out, tokenizer, workers, report)
        return _load_summary(out)
    if not _same_stamp(place.folder / INPUTS_FILE, stamp):
        shutil.rmtree(place.folder, ignore_errors=True)
    place.parts.mkdir(parents=True, exist_ok=True)
    _write_json(place.folder / INPUTS_FILE, stamp)
    open_archives = [(place, file) for file in archives if not _is_mapped(place, file)]
    _run(map_archive, open_archives, workers, "archives", report)
    open_files = [(place, file, archives) for file in files if not _is_mapped(place, file)]
    _run(map_rows, open_files, workers, "files", report)
    facts = {
        "source": adapter.source,
        "version": VERSION,
        "adapter": repr(adapter),
        "licence": adapter.licence,
        **Reduction(place).run(archives, files),
        "inputs": _without_times(stamp)["inputs"],
    }
    _write_json(place.folder / SOURCE_FILE, facts)
    for tokens in (place.folder / GEOMETRY_FOLDER).glob("tokens-*"):
        shutil.rmtree(tokens)  # of a run that ended between here and the rename
    _add_tokens(place.folder, tokenizer, workers, report)
    shutil.rmtree(place.parts)
    _put_in_place(place.folder, out)
    return _load_summary(out)


def _list_inputs(adapter: Adapter, raw: Path) -> tuple[list[str], list[str]]:
    """Archives and record files, relative to the raw folder."""
    if not raw.is_dir():
        raise DataNotFoundError(
            f"{raw}: no raw data of {adapter.source} here; download them to this folder (the "
            "demo's are made by: smolvlm2 demo-data), then run: smolvlm2 prepare " + adapter.source
        )
    archives = [path.relative_to(raw).as_posix() for path in adapter.archives(raw)]
    files = [path.relative_to(raw).as_posix() for path in adapter.record_files(raw)]
    if not files:
        found = sorted(path.name for path in raw.iterdir())[:5]
        raise DataError(
            f"{raw}: no files with rows of {adapter.source}, found {found}; expected the layout of "
            f"{type(adapter).__name__}, check that the download is complete"
        )
    return archives, files


def _workplace(adapter: Adapter, raw: Path, out: Path) -> Workplace:
    root = out.parent.parent
    if not raw.is_relative_to(root):
        raise DataError(
            f"{raw}: outside the data root {root} (two folders above {out}); media are found "
            "relative to the data root, so move or link the raw data below it"
        )
    return Workplace(
        adapter=adapter,
        raw=raw,
        raw_prefix=raw.relative_to(root).as_posix(),
        folder=out.with_name(f"{out.name}.partial"),
        shard_prefix=(out / "shards").relative_to(root).as_posix(),
    )


def _read_stamp(raw: Path, files: Sequence[str], known: Sequence[Path]) -> dict[str, Any]:
    """Size, time and digest of the inputs; a digest is kept where size and time are as before."""
    earlier: dict[tuple[str, int, int], str] = {}
    for path in known:
        if path.is_file():
            for entry in json.loads(path.read_text(encoding="utf-8"))["inputs"]:
                earlier[entry["file"], entry["size"], entry["modified_ns"]] = entry["sha256"]
    inputs = []
    for file in files:
        status = (raw / file).stat()
        key = (file, status.st_size, status.st_mtime_ns)
        sha256 = earlier.get(key) or _sha256(raw / file)
        inputs.append({"file": file, "size": key[1], "modified_ns": key[2], "sha256": sha256})
    return {"inputs": inputs}


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _same_stamp(path: Path, stamp: dict[str, Any]) -> bool:
    """Whether a stored stamp is about the same bytes; times do not matter."""
    if not path.is_file():
        return False
    stored = json.loads(path.read_text(encoding="utf-8"))
    return _without_times(stored) == _without_times(stamp)


def _without_times(stamp: dict[str, Any]) -> dict[str, Any]:
    inputs = [{k: v for k, v in e.items() if k != "modified_ns"} for e in stamp["inputs"]]
    return stamp | {"inputs": inputs}


def _is_finished(out: Path, stamp: dict[str, Any]) -> bool:
    complete = (out / MANIFEST_FILE).is_file() and (out / SOURCE_FILE).is_file()
    return complete and _same_stamp(out / INPUTS_FILE, stamp)


def _is_mapped(place: Workplace, file: str) -> bool:
    return place.part(file).with_suffix(".json").is_file()


def _add_tokens(folder: Path, tokenizer: Tokenizer, workers: int, report: Progress) -> None:
    write_token_columns(
        folder, tokenizer, lambda tasks: _run(count_tokens, tasks, workers, "tokens", report)
    )


def _run(
    function: Callable[..., Any],
    tasks: Sequence[tuple[Any, ...]],
    workers: int,
    what: str,
    report: Progress,
) -> list[Any]:
    """Call a function with each tuple of arguments; results in the order of the tasks."""
    if workers == 0 or len(tasks) < 2:
        results = []
        for done, task in enumerate(tasks, start=1):
            results.append(function(*task))
            report(what, done, len(tasks))
        return results
    # Spawned, not forked: Arrow and FFmpeg keep threads that a forked child would lack.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(workers, len(tasks)), mp_context=context) as pool:
        futures = [pool.submit(function, *task) for task in tasks]
        for done, future in enumerate(as_completed(futures), start=1):
            future.result()
            report(what, done, len(tasks))
        return [future.result() for future in futures]


def _put_in_place(folder: Path, out: Path) -> None:
    """Rename the finished folder; an older version of the source goes once it is replaced."""
    old = out.with_name(f"{out.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if out.exists():
        out.rename(old)
    folder.rename(out)
    shutil.rmtree(old, ignore_errors=True)


def _load_summary(out: Path) -> SourceSummary:
    return SourceSummary(**json.loads((out / SOURCE_FILE).read_text(encoding="utf-8")))


def _write_json(path: Path, value: dict[str, Any]) -> None:
    unfinished = path.with_suffix(".partial")
    unfinished.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")
    unfinished.replace(path)
