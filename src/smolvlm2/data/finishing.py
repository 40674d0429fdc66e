"""The end of prepare: a finished source appears under its name at once, or not at all."""

import errno
import json
import os
import shutil
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from smolvlm2.data.geometry import COLUMNS
from smolvlm2.data.inputs import InputStamp
from smolvlm2.data.manifest import (
    CONTAMINATION_FILE,
    GEOMETRY_FOLDER,
    LEDGER_FILE,
    MANIFEST_FILE,
    SOURCE_FILE,
)
from smolvlm2.data.shards import is_abandoned, make_durable, unfinished_name

INPUTS_FILE = "inputs.json"
"""The stamp of a finished source."""
SHARDS_FOLDER = "shards"


def is_finished(out: Path, stamp: InputStamp) -> bool:
    """Whether a source is complete, and was made from the same inputs in the same way.

    Training says which file it misses, and to prepare again: so that must not find it finished.
    """
    columns = (f"{GEOMETRY_FOLDER}/{name}.npy" for name in COLUMNS)
    names = (MANIFEST_FILE, SOURCE_FILE, INPUTS_FILE, LEDGER_FILE, *columns)
    if not all((out / name).is_file() for name in names):
        return False
    try:
        value = json.loads((out / INPUTS_FILE).read_text(encoding="utf-8"))
        sizes = value.get("shards", {}).items()
        whole = all((out / SHARDS_FOLDER / name).stat().st_size == size for name, size in sizes)
        return whole and InputStamp.from_json(value).is_same(stamp)
    except (OSError, ValueError, KeyError, TypeError):
        return False  # a shard is gone; or written by another version, or being replaced


def stamp_source(built: Path, stamp: InputStamp, folder: Path, shards: set[str]) -> None:
    """Say of what a source was made, and which shards it needs.

    Args:
        built: Results of the reduce.
        stamp: Of the source.
        folder: Of the shards.
        shards: Their file names.
    """
    sizes = {name: (folder / name).stat().st_size for name in sorted(shards)}
    write_json(built / INPUTS_FILE, asdict(stamp) | {"shards": sizes})


def take_shards(folder: Path, built: Path, shards: set[str]) -> None:
    """Bring the shards and the results of the reduce together.

    Args:
        folder: Of the shards.
        built: Results of this run's reduce.
        shards: File names of the shards that belong to the source.
    """
    if shards:
        (built / SHARDS_FOLDER).mkdir()
    for name in sorted(shards):
        _link(folder / name, built / SHARDS_FOLDER / name)


def remove_built(built: Path, folder: Path) -> None:
    """Remove what a run that has ended built, but no shard that is nowhere else.

    Args:
        built: Results of its reduce; need not exist.
        folder: Of the shards.
    """
    for path in (built / SHARDS_FOLDER).glob("*.tar"):
        # Moved there on a file system without second names; its raw file may have been consumed.
        if not (folder / path.name).exists():
            path.rename(folder / path.name)
    shutil.rmtree(built, ignore_errors=True)


def finish(folder: Path, built: Path, out: Path, stamp: InputStamp) -> None:
    """Give the results of the reduce, with their shards, their name.

    Another run may be at the same point. Nothing that it needs is changed before the source is in
    place; after that it finds the source finished.

    Args:
        folder: Where the source is being built; removed.
        built: Results of this run's reduce, inside ``folder``.
        out: The source's own folder; an older version goes once it is replaced.
        stamp: Of the source.
    """
    for path in built.rglob("*"):
        if path.is_file():
            make_durable(path)  # the parts go soon, and the raw files may be gone
    if not is_finished(out, stamp):
        with suppress(FileNotFoundError):
            # Says with which manifest it was made: training asks for another where rows changed.
            shutil.copy2(out / CONTAMINATION_FILE, built / CONTAMINATION_FILE)
        old = folder.with_name(f"{folder.name}.old")
        shutil.rmtree(old, ignore_errors=True)
        if out.exists():
            out.rename(old)
        try:
            built.rename(out)
        except OSError:
            if not is_finished(out, stamp):
                raise
        shutil.rmtree(old, ignore_errors=True)
    discard(folder)


def _link(path: Path, target: Path) -> None:
    """Give a shard a second name: until the source is in place the parts need it, too."""
    try:
        os.link(path, target)
    except OSError as error:
        # Network and user-space file systems say in several ways that they have no second names.
        if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EXDEV, errno.EMLINK):
            raise
        path.rename(target)  # a file system without second names


def discard(folder: Path) -> None:
    """Remove the folder in which a source was built, in one step for whoever looks at it."""
    gone = folder.with_name(unfinished_name(f"{folder.name}.gone"))
    try:
        folder.rename(gone)
    except FileNotFoundError:
        return
    shutil.rmtree(gone, ignore_errors=True)


def clean_up(folder: Path) -> None:
    """Remove the unfinished files of ended runs from the folder in which a source is built."""
    for below in (folder, folder / "parts", folder / SHARDS_FOLDER):
        for path in below.glob("*.partial"):
            if path.is_dir() and is_abandoned(path):
                remove_built(path, folder / SHARDS_FOLDER)
            elif is_abandoned(path):
                path.unlink(missing_ok=True)
    for path in folder.parent.glob(f"{folder.name}.gone.*"):
        if is_abandoned(path):
            shutil.rmtree(path, ignore_errors=True)


def write_json(path: Path, value: dict[str, Any]) -> None:
    """Write whole or not at all."""
    unfinished = path.with_name(unfinished_name(path.name))
    unfinished.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")
    unfinished.replace(path)
