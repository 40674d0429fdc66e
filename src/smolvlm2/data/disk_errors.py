"""Trouble with disks, rights and networks: told apart from damaged data, and explained."""

import errno
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from smolvlm2.errors import DataError, SmolVLMError

_FULL = (errno.ENOSPC, errno.EDQUOT)
_RIGHTS = (errno.EACCES, errno.EPERM, errno.EROFS)


def is_of_machine(error: BaseException) -> bool:
    """Whether a file could not be read for a reason that is not in the file.

    The system numbers its errors; what libraries say of damaged bytes has no number, or that of a
    place which damaged bytes named. Rows must not be left out for a right that is missing or a
    server that is away: the next run would find the same file and change nothing.
    """
    return isinstance(error, OSError) and error.errno not in (None, errno.EINVAL)


@contextmanager
def explained(where: Path) -> Iterator[None]:
    """Turn errors of the system into messages.

    Args:
        where: What is being written, for errors that name no file.

    Raises:
        DataError: The disk is full, a right is missing, a file is gone or cannot be read.
    """
    try:
        yield
    except sqlite3.OperationalError as error:
        raise DataError(_full(where, error)) from error
    except OSError as error:
        if isinstance(error, SmolVLMError):
            raise
        file = error.filename or where
        # NumPy says without a number that less was written than it wanted.
        if error.errno in (*_FULL, None):
            raise DataError(_full(where, error)) from error
        advice = "run the same command again, it goes on where it stopped"
        if error.errno in _RIGHTS:
            advice = "change its rights (--consume must be able to delete), then " + advice
        elif isinstance(error, NotADirectoryError | FileExistsError):
            advice = "a file is in the place of a folder: name another folder"
        elif isinstance(error, FileNotFoundError):
            advice = "it was there a moment ago: see who moved or deleted it, then " + advice
        else:
            advice = "check the disk or the connection, then " + advice
        raise DataError(f"{file}: {error.strerror or error}; {advice}") from error


def _full(where: Path, error: Exception) -> str:
    return (
        f"{where}: the disk or a quota is full ({error}); free some space (--consume deletes raw "
        "files whose content is in shards) and run the same command, it goes on where it stopped"
    )
