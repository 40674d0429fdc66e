"""Results that are computed once and kept beside the data: held in use, pruned when forgotten.

A process holds a result by a shared lock on one of its files, until the process ends. Whoever
prunes needs that lock for itself alone, so that nothing disappears under a mapped file.
"""

import fcntl
import logging
import os
import shutil
import time
from contextlib import suppress
from pathlib import Path

from smolvlm2.data.shards import is_abandoned, make_durable, unfinished_name

logger = logging.getLogger(__name__)

KEPT = 8
"""Results of a kind that stay, however old: those used last."""
KEPT_DAYS = 30
"""Days since the last use after which others go. Locks do not reach other machines on every file
system; no process is likely to use a result that long without opening it again."""
DAY_S = 86_400.0

_held: dict[Path, int] = {}


def hold(file: Path) -> bool:
    """Keep others from pruning a result as long as this process lives, and note its use.

    Args:
        file: Of the result; always the same one of a kind.

    Returns:
        Whether it is there.
    """
    try:
        handle = os.open(file, os.O_RDONLY)
    except FileNotFoundError:
        return False
    with suppress(OSError):  # a file system without locks: there nobody can prune
        fcntl.flock(handle, fcntl.LOCK_SH)
    try:
        # It may have been pruned, and made again, while this waited for the lock.
        here = os.path.samestat(os.fstat(handle), os.stat(file))
    except FileNotFoundError:
        here = False
    if not here:
        os.close(handle)
        return file.is_file() and hold(file)
    with suppress(OSError):  # not ours to change: its age is then that of its making
        os.utime(file)
    path = file.resolve()
    if path in _held:
        os.close(_held[path])
    _held[path] = handle
    return True


def put_in_place(unfinished: Path, folder: Path) -> None:
    """Give a result its name, unless another process was faster, with the same result.

    Args:
        unfinished: Folder of the result; its files are on the disk before it has its name.
        folder: The name.
    """
    for path in unfinished.rglob("*"):
        if path.is_file():
            make_durable(path)
    try:
        # Not asked for before: on a network file system others learn of a name seconds later.
        unfinished.rename(folder)
    except OSError:
        if not folder.is_dir():
            raise


def prune(folder: Path, kind: str, *, file: str | None, keep: int = KEPT) -> int:
    """Remove results that nobody uses and nobody used for long; safe beside other processes.

    Args:
        folder: Where they lie.
        kind: Pattern of their names.
        file: Name of the file by which a result is held; None: the results are files themselves.
        keep: Results that stay, however old.

    Returns:
        Bytes that were removed.
    """
    now = time.time()
    finished, freed, count = [], 0, 0
    for path in folder.glob(kind):
        if not path.name.endswith(".partial"):
            finished.append(path)
        elif is_abandoned(path) or _days(path, now) > KEPT_DAYS:
            _remove(path)
    unused = {path: _days(path / file if file else path, now) for path in finished}
    for path in sorted(finished, key=lambda path: (unused[path], path.name))[keep:]:
        if unused[path] > KEPT_DAYS and (size := _take_away(path, file)) is not None:
            freed, count = freed + size, count + 1
    if count:
        logger.info(
            "%s: removed %d of %d results %s that were not used for %d days (%.1f MB)",
            folder,
            count,
            len(finished),
            kind,
            KEPT_DAYS,
            freed / 1e6,
        )
    return freed


def _take_away(path: Path, file: str | None) -> int | None:
    """Remove one result, whole or not at all; its size, or None where it is in use."""
    try:
        handle = os.open(path / file if file else path, os.O_RDWR)
    except OSError:  # gone, or not ours
        return None
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        files = path.rglob("*") if file else [path]
        size = sum(each.stat().st_size for each in files)
        # Out of the way first: a process that dies while it removes files leaves no half result.
        aside = path.with_name(unfinished_name(path.name))
        path.rename(aside)
    except OSError:  # held, or a file system without locks
        return None
    finally:
        os.close(handle)
    _remove(aside)
    return size


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _days(path: Path, now: float) -> float:
    """Days since a file was made or used; none where it is gone."""
    try:
        return (now - path.stat().st_mtime) / DAY_S
    except OSError:
        return 0.0
