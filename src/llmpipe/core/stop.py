"""Stopping at a safe point: the first Ctrl-C or SIGTERM is noted, work saves itself and then leaves."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from types import FrameType

from llmpipe.core.errors import Interrupted, Stopped


class StopFlag:
    """Whether the process was asked to stop, and how."""

    def __init__(self) -> None:
        self._signal: int | None = None

    @property
    def requested(self) -> bool:
        """True from the first SIGINT or SIGTERM on."""
        return self._signal is not None

    def request(self, signum: int = signal.SIGTERM) -> None:
        """Ask for a stop, as a signal would; the first request decides what kind it is."""
        if self._signal is None:
            self._signal = signum

    def check(self) -> None:
        """Leave if a stop was asked for. Call it where everything needed for resuming is saved.

        Raises:
            Interrupted: after Ctrl-C.
            Stopped: after SIGTERM.
        """
        if self._signal == signal.SIGINT:
            raise Interrupted(
                "stopped by Ctrl-C; nothing is lost",
                "run the same command again to go on from here",
            )
        if self._signal is not None:
            raise Stopped(
                "stopped by SIGTERM; nothing is lost",
                "run the same command again to go on from here",
            )

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """Turn the first SIGINT or SIGTERM into a request; a second one ends the process at once."""

        def note(signum: int, frame: FrameType | None) -> None:
            if self.requested:
                raise KeyboardInterrupt
            self.request(signum)

        try:
            previous = {s: signal.signal(s, note) for s in (signal.SIGINT, signal.SIGTERM)}
        except ValueError:  # not in the main thread: whoever runs the thread handles signals
            yield
            return
        try:
            yield
        finally:
            for signum, handler in previous.items():
                signal.signal(signum, handler)
