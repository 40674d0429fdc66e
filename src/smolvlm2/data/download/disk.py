"""Free disk, before and while files arrive."""

import shutil
from pathlib import Path

from smolvlm2.data.download.text import show_bytes
from smolvlm2.errors import DataError

MARGIN = 200_000_000
"""Bytes left free for records, logs and the file system itself."""

PREPARE_NOTE = (
    "prepare repacks images in parquet and compressed archives: leave as much again for it, or let "
    "`smolvlm2 prepare --consume` delete each file once it is repacked"
)


def free_bytes(path: Path) -> int:
    """Free space for this user where ``path`` lies or will lie."""
    existing = path.absolute()
    while not existing.exists():
        existing = existing.parent
    return shutil.disk_usage(existing).free


def check_room(data: Path, needed: int) -> None:
    """Refuse a download that cannot fit.

    Args:
        data: Folder that is written to.
        needed: Bytes that are still to come.

    Raises:
        DataError: Too little is free; says how much is missing.
    """
    free = free_bytes(data)
    if needed and needed + MARGIN > free:
        raise DataError(
            f"{data}: {show_bytes(needed)} are to be fetched but {show_bytes(free)} are free, "
            f"{show_bytes(needed + MARGIN - free)} are missing; nothing was fetched. Choose "
            "less (--source, --subset, --recipe, --max-gb) or another disk (--data)"
        )
