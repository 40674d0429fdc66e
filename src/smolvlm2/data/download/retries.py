"""What went wrong with a request, and how long to wait before it is worth another try."""

import email.utils
import errno
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeVar

from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    HTTPError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

T = TypeVar("T")
Kind = Literal["gated", "refused", "gone", "busy", "damaged", "disk full", "error"]
_BUSY = (408, 425, 429)
"""Besides everything from 500 on, where hosts in front of the hub have numbers of their own."""
_DISK = (errno.ENOSPC, errno.EDQUOT)


@dataclass(frozen=True, kw_only=True)
class RetrySettings:
    """How patient a download is with a busy hub or a bad line."""

    attempts: int = 6
    """Tries of one request, the first one included."""
    first_wait: float = 1.0
    """Seconds before the second try; doubles from try to try."""
    longest_wait: float = 60.0
    """Seconds; a hub that asks for more in Retry-After is obeyed up to ``longest_asked``."""
    longest_asked: float = 600.0
    """Seconds."""


class StoppedError(Exception):
    """Raised in a worker when the user or a full disk ends the download; never leaves the room."""


class DamagedError(Exception):
    """What arrived is not what the hub lists: other size or other hash."""


@dataclass(frozen=True)
class Trouble:
    """An error in the words of this room."""

    kind: Kind
    detail: str
    """For a human, one line."""
    asked_wait: float | None = None
    """Seconds that the hub asked to wait."""


def classify(error: BaseException) -> Trouble:
    """Say what an error of the hub's client means for the download.

    Raises:
        BaseException: ``error`` itself, where it is a mistake of this program.
    """
    if isinstance(error, LocalEntryNotFoundError) and error.__cause__ is not None:
        return classify(error.__cause__)  # the client found nothing in its cache either
    first_line = next(iter(str(error).strip().splitlines()), type(error).__name__)
    if isinstance(error, DamagedError):
        return Trouble("damaged", first_line)
    if isinstance(error, GatedRepoError):
        return Trouble("gated", "the terms are not accepted, or no token was sent")
    if isinstance(error, RepositoryNotFoundError):
        return Trouble("error", "the repository does not exist, or is private")
    if isinstance(error, RevisionNotFoundError):
        return Trouble("gone", "the hub does not know this revision any more")
    if isinstance(error, EntryNotFoundError) and not isinstance(error, LocalEntryNotFoundError):
        return Trouble("gone", "the file is not on the hub any more")
    if isinstance(error, HfHubHTTPError):
        return _classify_status(error)
    if isinstance(error, OfflineModeIsEnabled):
        return Trouble("error", "HF_HUB_OFFLINE is set; unset it to download")
    if isinstance(error, OSError):
        if error.errno in _DISK:
            return Trouble("disk full", error.strerror or first_line)
        if "Consistency check failed" in str(error):
            return Trouble("damaged", first_line)
        if error.errno is not None and not isinstance(error, ConnectionError | TimeoutError):
            return Trouble("error", str(error))  # the disk's, such as a folder without permission
    # HTTPError is the base of the transport's errors; Xet reports its own as RuntimeError.
    if isinstance(error, HTTPError | OSError | RuntimeError):
        return Trouble("busy", f"{type(error).__name__}: {first_line}")
    if isinstance(error, UnicodeEncodeError):
        return Trouble("refused", "the token has a character that no token has")
    # The client refuses the request itself, or misses what a proxy's scheme needs.
    if isinstance(error, ValueError | ImportError):
        return Trouble("error", first_line)
    raise error


def call_patiently(function: Callable[[], T], settings: RetrySettings, stop: threading.Event) -> T:
    """Call until it works; only a busy hub or a bad line is tried again.

    Raises:
        StoppedError: ``stop`` was set while waiting.
        Exception: The last error, where it is final.
    """
    for attempt in range(settings.attempts):
        try:
            return function()
        except Exception as error:
            trouble = classify(error)
            if trouble.kind != "busy" or attempt + 1 == settings.attempts:
                raise
            if stop.wait(wait_seconds(trouble, attempt, settings)):
                raise StoppedError from error
    raise AssertionError("attempts is at least 1")


def wait_seconds(trouble: Trouble, attempt: int, settings: RetrySettings) -> float:
    """How long to wait after try number ``attempt``, from 0."""
    wait = min(settings.first_wait * 2**attempt, settings.longest_wait)
    return max(wait, min(trouble.asked_wait or 0.0, settings.longest_asked))


def _classify_status(error: HfHubHTTPError) -> Trouble:
    status = error.response.status_code
    request = error.response.request
    if status in (401, 403):
        if "authorization" in request.headers:
            return Trouble("refused", f"the hub refuses the token ({status})")
        # Where the hub sends the client on to, no token goes: a link that was signed for an hour
        # has run out, and the next try gets a new one.
        return Trouble("busy", f"{request.url.host} answers {status} to a request without token")
    if status == 416:
        return Trouble("damaged", "the hub answers 416: less is there than has arrived")
    if status == 404:
        return Trouble("gone", "the hub answers 404")
    kind: Kind = "busy" if status in _BUSY or status >= 500 else "error"
    return Trouble(kind, f"the hub answers {status}", _retry_after(error))


def _retry_after(error: HfHubHTTPError) -> float | None:
    """Seconds in ``Retry-After``, which holds a number or a date."""
    text = error.response.headers.get("Retry-After", "").strip()
    if text.isdigit():
        return float(text)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(text).timestamp() - time.time())
    except ValueError:
        return None
