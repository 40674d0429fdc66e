"""The end of prepare: a finished source appears under its name at once, or not at all."""

import json
import shutil
from pathlib import Path
from typing import Any

from smolvlm2.data.inputs import InputStamp
from smolvlm2.data.manifest import GEOMETRY_FOLDER, MANIFEST_FILE, SOURCE_FILE
from smolvlm2.data.shards import is_abandoned, make_durable, unfinished_name

INPUTS_FILE = "inputs.json"
"""The stamp of a finished source."""
PARTS_FOLDER = "parts"
SHARDS_FOLDER = "shards"


def is_finished(out: Path, stamp: InputStamp) -> bool:
    """Whether a source is complete, and was made from the same inputs in the same way."""
    names = (MANIFEST_FILE, SOURCE_FILE, INPUTS_FILE)
    if not all((out / name).is_file() for name in names):
        return False
    try:
        value = json.loads((out / INPUTS_FILE).read_text(encoding="utf-8"))
        return InputStamp.from_json(value).is_same(stamp)
    except (ValueError, KeyError, TypeError):
        return False  # written by another version


def finish(folder: Path, built: Path, out: Path, shards: set[str]) -> None:
    """Bring the results of the reduce and the shards together, and give them their name.

    Args:
        folder: Where the source is being built.
        built: Results of this run's reduce, inside ``folder``.
        out: The source's own folder; an older version goes once it is replaced.
        shards: File names of the shards that belong to the source.
    """
    for path in (folder / SHARDS_FOLDER).glob("*"):
        if path.name not in shards:
            path.unlink(missing_ok=True)  # of inputs that changed or went
    if (folder / SHARDS_FOLDER).is_dir() and not shards:
        (folder / SHARDS_FOLDER).rmdir()
    shutil.rmtree(folder / GEOMETRY_FOLDER, ignore_errors=True)
    # One by one: another run may be at the same point with equal files. Folders are not made
    # together with those above: where these are gone, that run was first.
    for path in sorted(built.rglob("*")):
        target = folder / path.relative_to(built)
        if path.is_dir():
            target.mkdir(exist_ok=True)
        else:
            make_durable(path)  # the parts go soon
            path.replace(target)
    for path in (built, *folder.glob("*.partial")):
        # What other runs were at is of no use any more: they find the source finished.
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
    old = out.with_name(f"{out.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if out.exists():
        out.rename(old)
    try:
        folder.rename(out)
    except FileNotFoundError:
        if old.exists() and not out.exists():
            old.rename(out)
        raise
    shutil.rmtree(old, ignore_errors=True)
    clean_up(out)


def clean_up(folder: Path) -> None:
    """Remove what ended runs left: unfinished files, and the parts of a finished source.

    Parts go only after the source has its name: with the raw files consumed they could not be made
    again.
    """
    if (folder / SOURCE_FILE).is_file() and not folder.name.endswith(".partial"):
        shutil.rmtree(folder / PARTS_FOLDER, ignore_errors=True)
    for below in (folder, folder / PARTS_FOLDER, folder / SHARDS_FOLDER):
        for path in below.glob("*.partial"):
            if path.is_dir() and is_abandoned(path):
                shutil.rmtree(path, ignore_errors=True)
            elif is_abandoned(path):
                path.unlink(missing_ok=True)


def write_json(path: Path, value: dict[str, Any]) -> None:
    """Write whole or not at all."""
    unfinished = path.with_name(unfinished_name(path.name))
    unfinished.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")
    unfinished.replace(path)
