"""Ending a text at a string, while it is streamed.

A stop string may arrive in pieces, over several tokens. So text that could be the beginning of one is held back
until the next tokens decide: a reader never sees part of a stop string.
"""

from __future__ import annotations

from collections.abc import Sequence


class StopStrings:
    """Passes a text through up to the first of several stop strings.

    Args:
        stops: none of them empty.

    Attributes:
        found: the string that ended the text, once one has.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        assert all(stops), "an empty stop string would end every text"
        self._stops = tuple(stops)
        self._held = ""
        self.found: str | None = None

    def push(self, text: str) -> str:
        """Take some more text; return what is safe to show. Nothing comes after a stop string."""
        if self.found is not None:
            return ""
        self._held += text
        places = [(self._held.find(stop), stop) for stop in self._stops if stop in self._held]
        if places:
            place, self.found = min(places)
            return self._release(place)
        return self._release(len(self._held) - self._n_possible())

    def flush(self) -> str:
        """Return what was held back, at the end of the text."""
        return self._release(len(self._held)) if self.found is None else ""

    def _n_possible(self) -> int:
        """Return the length of the longest end of the text that could begin a stop string."""
        longest = max(map(len, self._stops), default=1) - 1
        for n in range(min(longest, len(self._held)), 0, -1):
            if any(stop.startswith(self._held[-n:]) for stop in self._stops):
                return n
        return 0

    def _release(self, n: int) -> str:
        shown, self._held = self._held[:n], self._held[n:]
        return shown
