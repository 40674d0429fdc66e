"""What of a plan fits into ``--max-gb``."""

import re
from collections.abc import Iterable

from smolvlm2.data.download.record import RemoteFile

_PARTS = re.compile(
    r"(?P<zip>.*)\.(?:zip|z\d\d)$"
    r"|(?P<other>.*\.(?:zip|7z|tar|tgz|tbz|tar\.\w+))\.(?:part)?(?:[a-z]{2}|\d+)$",
    re.IGNORECASE,
)


def archive_set(path: str) -> str:
    """Name that the parts of one split archive share; of any other file its path."""
    match = _PARTS.fullmatch(path)
    return path if match is None else f"{match['zip'] or match['other']}.*"


def within_budget(
    files: Iterable[RemoteFile], limit: int
) -> tuple[list[RemoteFile], list[RemoteFile]]:
    """Divide a plan into what fits and what does not.

    Files are taken in their order. One that does not fit any more is left out, and smaller ones
    after it may still be taken; the parts of a split archive go together. Files that are there
    already count as well, so that the same command always means the same files.

    Args:
        files: In the order of the catalogue, then ``download_order``.
        limit: Bytes.

    Returns:
        Taken and left out, both in the given order.
    """
    groups: dict[tuple[str, str], list[RemoteFile]] = {}
    for file in files:
        groups.setdefault((file.source, archive_set(file.local)), []).append(file)
    taken: list[RemoteFile] = []
    left_out: list[RemoteFile] = []
    room = limit
    for group in groups.values():
        size = sum(file.size for file in group)
        if size <= room:
            room -= size
            taken += group
        else:
            left_out += group
    return taken, left_out
