"""Asking a run to stop."""

import os
import signal

import pytest

from smolvlm2.errors import ConfigError
from smolvlm2.training.signals import EXIT_CODES, StopRequest, parse_duration


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("3h50m", 13800), ("90s", 90), ("1d12h", 129600), ("45", 45), ("1.5", 1.5)],
)
def test_durations_are_read(text, seconds):
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "3x", "h3", "3h 50m", "-5"])
def test_other_words_are_no_durations(text):
    with pytest.raises(ConfigError, match="is not of the form 3h50m"):
        parse_duration(text)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_is_noted_and_the_handler_put_back(number):
    before = signal.getsignal(number)
    with StopRequest() as stop:
        with stop:  # entered again by the loop inside the command
            pass
        assert stop.pending() is None
        os.kill(os.getpid(), number)
        assert (stop.pending(), stop.signal) == ("signal", number.name)
    assert signal.getsignal(number) is before


def test_time_is_up_on_a_clock_that_only_runs_forward():
    now = [100.0]
    stop = StopRequest(60, clock=lambda: now[0])
    assert stop.pending() is None
    now[0] = 160.0
    assert stop.pending() == "time"
    stop.signal = "SIGTERM"
    assert stop.pending() == "signal"


def test_a_scheduler_starts_again_only_what_ran_out_of_time():
    assert EXIT_CODES == {"finished": 0, "signal": 0, "time": 75}


def test_the_first_interrupt_asks_and_the_second_one_ends(capfd):
    before = signal.getsignal(signal.SIGINT)
    stop = StopRequest()
    with stop:
        signal.raise_signal(signal.SIGINT)
        assert stop.pending() == "signal"
        assert stop.exit_code("signal") == 130
        assert "saves after this step" in capfd.readouterr().err
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before


def test_an_interrupt_is_noted_where_nobody_reads_what_is_said(monkeypatch):
    def gone(handle, text):
        raise BrokenPipeError

    with StopRequest() as stop:
        monkeypatch.setattr(os, "write", gone)  # `| tee`, which the same Ctrl-C has ended
        signal.raise_signal(signal.SIGINT)
        monkeypatch.undo()
    assert stop.pending() == "signal"


def test_a_second_interrupt_ends_whatever_came_between():
    with StopRequest() as stop:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGTERM)
        assert stop.signal == "SIGTERM"
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
