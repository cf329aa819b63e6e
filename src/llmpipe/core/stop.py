"""Stopping at a safe point: the first Ctrl-C or SIGTERM is noted, work saves itself and then leaves.

A terminal that goes away (SIGHUP) is as good as a SIGTERM, unless `nohup` said to ignore it.
"""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterable, Iterator
from types import FrameType
from typing import Any

from llmpipe.core.errors import Interrupted, Stopped


class StopFlag:
    """Whether the process was asked to stop, and how."""

    def __init__(self) -> None:
        self._signal: int | None = None

    @property
    def requested(self) -> bool:
        """True from the first signal on."""
        return self._signal is not None

    def request(self, signum: int = signal.SIGTERM) -> None:
        """Ask for a stop, as a signal would; the first request decides what kind it is."""
        if self._signal is None:
            self._signal = signum

    def check(self) -> None:
        """Leave if a stop was asked for. Call it where everything needed for resuming is saved.

        Raises:
            Interrupted: after Ctrl-C.
            Stopped: after SIGTERM or SIGHUP.
        """
        if self._signal == signal.SIGINT:
            raise Interrupted(
                "stopped by Ctrl-C; nothing is lost",
                "run the same command again to go on from here",
            )
        if self._signal is not None:
            raise Stopped(
                f"stopped by {signal.Signals(self._signal).name}; nothing is lost",
                "run the same command again to go on from here",
            )

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """Turn the first signal into a request; another Ctrl-C ends the process at once.

        Another SIGTERM does not: under torchrun each process gets the scheduler's and torchrun's own.
        """

        def note(signum: int, frame: FrameType | None) -> None:
            if self.requested and signum == signal.SIGINT:
                raise KeyboardInterrupt
            self.request(signum)

        heard = [signal.SIGINT, signal.SIGTERM]
        if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:
            heard.append(signal.SIGHUP)
        with _handled(heard, note):
            yield

    @contextlib.contextmanager
    def leaving_at_once(self) -> Iterator[None]:
        """Let signals end the process, for a wait in a library in which nothing would be lost.

        Raises:
            Stopped: a signal came before.
        """
        self.check()
        with _handled((signal.SIGINT, signal.SIGTERM), signal.SIG_DFL):
            yield


@contextlib.contextmanager
def _handled(signals: Iterable[signal.Signals], handler: Any) -> Iterator[None]:
    """Handle signals so, and as before at the end. Only the main thread can; elsewhere whoever runs the thread handles them."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = {s: signal.signal(s, handler) for s in signals}
    try:
        yield
    finally:
        for signum, before in previous.items():
            signal.signal(signum, before)
