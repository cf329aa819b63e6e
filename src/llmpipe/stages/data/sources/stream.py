"""The unpacked bytes of an archive as records need them: look ahead, take, search, stop where bytes are missing."""

from __future__ import annotations

from collections.abc import Iterator

from llmpipe.core.records.compression import Break, Piece


class Stream:
    """A buffer over pieces: look ahead, take, search. It stops at a break until that is taken."""

    def __init__(self, pieces: Iterator[Piece]) -> None:
        self._pieces = pieces
        self._buffer = bytearray()
        self._start = 0
        self._position = 0
        self._verified = 0
        self._break: Break | None = None
        self._ended = False

    def __len__(self) -> int:
        return len(self._buffer) - self._start

    def fill(self, n: int) -> bool:
        """Have at least `n` bytes ahead; False if a break or the end comes before."""
        while len(self) < n and self._break is None and not self._ended:
            piece = next(self._pieces, None)
            if piece is None:
                self._ended = True
            elif isinstance(piece, Break):
                self._break = piece
            elif not piece:
                self._verified = self._position + len(self)
            else:
                if self._start:
                    del self._buffer[: self._start]
                    self._start = 0
                self._buffer += piece
        return len(self) >= n

    def peek(self, n: int) -> bytes:
        """Return up to `n` bytes without taking them."""
        self.fill(n)
        return bytes(self._buffer[self._start : self._start + n])

    def take(self, n: int) -> bytes:
        """Return up to `n` bytes; fewer only before a break or the end."""
        data = self.peek(n)
        self._pass(len(data))
        return data

    def skip(self, n: int) -> int:
        """Pass `n` bytes without holding them; returns how many there were."""
        left = n
        while left and self.fill(1):
            step = min(left, len(self))
            self._pass(step)
            left -= step
        return n - left

    def push_back(self, data: bytes) -> None:
        """Put bytes back in front of the stream."""
        self._buffer[: self._start] = data
        self._start = 0
        self._position -= len(data)

    def skip_line_ends(self) -> None:
        """Pass the empty lines between records."""
        while self.fill(1) and self._buffer[self._start] in b"\r\n":
            self._pass(1)

    def find(self, pattern: bytes, limit: int) -> int:
        """Return the distance to the end of `pattern`, or -1 if it does not end within `limit` bytes."""
        searched, size = 0, 1 << 12
        while True:
            self.fill(min(size, limit))
            at = self._buffer.find(pattern, self._start + searched, self._start + limit)
            if at >= 0:
                return at - self._start + len(pattern)
            if len(self) < size or size >= limit:
                return -1
            searched, size = max(0, len(self) - len(pattern)), size * 4

    @property
    def is_verified(self) -> bool:
        """Whether a checksum has confirmed everything that was taken."""
        return self._position <= self._verified

    @property
    def at_break(self) -> Break | None:
        """The break that comes directly after what was taken, if any."""
        return self._break if not self.fill(1) else None

    def take_break(self) -> Break | None:
        """Pass the break ahead and return it."""
        found, self._break = self.at_break, None
        return found

    def _pass(self, n: int) -> None:
        self._start += n
        self._position += n
