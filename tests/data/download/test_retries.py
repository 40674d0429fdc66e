"""What an error means, and how long to wait."""

import errno
import threading

import httpx2 as httpx
import pytest
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled

from smolvlm2.data.download.retries import (
    RetrySettings,
    StoppedError,
    Trouble,
    call_patiently,
    classify,
    wait_seconds,
)

SETTINGS = RetrySettings(attempts=3, first_wait=0.0)


def answer(status: int, token: str = "", **headers: str) -> HfHubHTTPError:
    sent = {"Authorization": f"Bearer {token}"} if token else {}
    request = httpx.Request("GET", "https://hub.example/datasets/o/n", headers=sent)
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    return HfHubHTTPError("no", response=httpx.Response(status, headers=names, request=request))


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (answer(429), "busy"),
        (answer(503), "busy"),
        (answer(520), "busy"),
        (answer(401, token="hf_x"), "refused"),
        (answer(403, token="hf_x"), "refused"),
        (answer(403), "busy"),
        (answer(416), "damaged"),
        (UnicodeEncodeError("ascii", "h\u00e9", 1, 2, "ordinal not in range"), "refused"),
        (ImportError("the 'socksio' package is not installed"), "error"),
        (answer(404), "gone"),
        (answer(418), "error"),
        (httpx.ReadError("reset"), "busy"),
        (ConnectionResetError(errno.ECONNRESET, "reset"), "busy"),
        (RuntimeError("from Xet"), "busy"),
        (OSError(errno.ENOSPC, "full"), "disk full"),
        (OSError(errno.EDQUOT, "quota"), "disk full"),
        (PermissionError(errno.EACCES, "no"), "error"),
        (OSError("Consistency check failed: file should be of size 2"), "damaged"),
        (OfflineModeIsEnabled("offline"), "error"),
        (ValueError("too large"), "error"),
    ],
)
def test_errors_are_sorted_by_what_can_be_done(error, kind):
    assert classify(error).kind == kind


def test_what_the_client_wraps_is_unwrapped():
    error = LocalEntryNotFoundError("not in the cache")
    error.__cause__ = answer(503)
    assert classify(error) == Trouble("busy", "the hub answers 503")


def test_a_mistake_of_this_program_is_not_hidden():
    with pytest.raises(TypeError, match="wrong"):
        classify(TypeError("wrong"))


def test_retry_after_is_read_as_seconds_or_as_a_date():
    assert classify(answer(429, Retry_After="120")).asked_wait == 120
    late = classify(answer(503, Retry_After="Fri, 31 Dec 2999 23:59:59 GMT")).asked_wait
    assert late > 1e9
    assert classify(answer(503, Retry_After="Thu, 01 Jan 1970 00:00:00 GMT")).asked_wait == 0
    assert classify(answer(503, Retry_After="soon")).asked_wait is None
    assert classify(answer(503)).asked_wait is None


def test_waits_double_up_to_a_limit_and_obey_the_hub_up_to_another():
    settings = RetrySettings(first_wait=1, longest_wait=5, longest_asked=100)
    waits = [wait_seconds(Trouble("busy", ""), attempt, settings) for attempt in range(4)]
    assert waits == [1, 2, 4, 5]
    assert wait_seconds(Trouble("busy", "", 30), 0, settings) == 30
    assert wait_seconds(Trouble("busy", "", 1e9), 0, settings) == 100


def test_only_what_can_pass_is_tried_again():
    calls = []

    def fail(error):
        calls.append(error)
        raise error

    with pytest.raises(HfHubHTTPError):
        call_patiently(lambda: fail(answer(503)), SETTINGS, threading.Event())
    assert len(calls) == 3
    with pytest.raises(HfHubHTTPError):
        call_patiently(lambda: fail(answer(404)), SETTINGS, threading.Event())
    assert len(calls) == 4


def test_a_stop_ends_the_waiting():
    stop = threading.Event()
    stop.set()

    def fail():
        raise answer(503)

    with pytest.raises(StoppedError):
        call_patiently(fail, RetrySettings(first_wait=1000), stop)
