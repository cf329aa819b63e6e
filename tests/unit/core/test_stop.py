"""Signals become a request to stop."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest

from llmpipe.core.errors import Interrupted, Stopped
from llmpipe.core.stop import StopFlag


def test_repeated_sigterm_is_one_request() -> None:
    stop = StopFlag()
    with stop.listening():
        for _ in range(3):
            os.kill(os.getpid(), signal.SIGTERM)
        assert stop.requested
        with pytest.raises(Stopped, match="stopped by SIGTERM; nothing is lost"):
            stop.check()


@pytest.fixture
def hang_up(request: pytest.FixtureRequest) -> Iterator[None]:
    """Start as from a terminal, or as under `nohup`, whatever started the tests."""
    previous = signal.signal(signal.SIGHUP, request.param)
    yield
    signal.signal(signal.SIGHUP, previous)


@pytest.mark.parametrize("hang_up", [signal.SIG_DFL], indirect=True)
def test_closed_terminal_is_a_request_too(hang_up: None) -> None:
    stop = StopFlag()
    with stop.listening():
        os.kill(os.getpid(), signal.SIGHUP)
    with pytest.raises(Stopped, match="stopped by SIGHUP"):
        stop.check()


@pytest.mark.parametrize("hang_up", [signal.SIG_IGN], indirect=True)
def test_closed_terminal_is_nothing_under_nohup(hang_up: None) -> None:
    stop = StopFlag()
    with stop.listening():
        os.kill(os.getpid(), signal.SIGHUP)
    stop.check()


def test_second_ctrl_c_ends_at_once() -> None:
    stop = StopFlag()
    with stop.listening():
        os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(Interrupted):
            stop.check()
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


def test_signals_end_a_wait_in_which_nothing_is_lost_and_are_heard_again_after() -> None:
    stop = StopFlag()
    with stop.listening():
        with stop.leaving_at_once():
            assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
        os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(Stopped), stop.leaving_at_once():
            pytest.fail("the request came before")
