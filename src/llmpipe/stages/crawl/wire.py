"""Connections that keep the exact bytes of request and response, and never outlive their deadline.

An archive has to hold what was sent, and HTTP libraries only show what they understood of it. So the
tap sits below the library, at the socket: urllib3 still speaks HTTP and TLS and takes chunks apart.
The same place is the only one where a deadline for a whole response can be kept: a socket timeout
starts anew with every byte, and a server that sends one byte a second would never run into it.
"""

from __future__ import annotations

import io
import socket
import time
from collections.abc import Callable
from http.client import HTTPResponse
from typing import Any

from urllib3.connection import HTTPConnection, HTTPSConnection


class WireTap(io.RawIOBase):
    """Reads a socket, keeps what came, and raises TimeoutError at the deadline."""

    def __init__(self, sock: socket.socket, deadline: float) -> None:
        super().__init__()
        self._sock = sock
        self._raw = sock.makefile("rb", buffering=0)
        self._deadline = deadline
        self.received = bytearray()

    def readable(self) -> bool:
        """Tell `io.BufferedReader` that reading is possible."""
        return True

    def readinto(self, buffer: Any) -> int | None:
        """Read what is there, waiting no longer than until the deadline."""
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError("the response took too long")
        self._sock.settimeout(left)
        n = self._raw.readinto(buffer)
        if n:
            self.received += memoryview(buffer)[:n]
        return n

    def close(self) -> None:
        """Close the file; the socket closes with the last file on it."""
        self._raw.close()
        super().close()


class TappedHTTPConnection(HTTPConnection):
    """A tapped connection without TLS.

    Attributes:
        sent: the request as sent.
        tap: what came in answer; None until something is read.
        deadline: until when the exchange may take, by `time.monotonic`.
        check_peer: called with the address connected to before anything is sent; raises to send nothing.
    """

    check_peer: Callable[[str], None] | None = None
    sent: bytearray
    tap: WireTap | None
    deadline: float

    def expect(self, timeout_s: float) -> None:
        """Forget the exchange before, and start the clock of the next."""
        self.sent = bytearray()
        self.tap = None
        self.deadline = time.monotonic() + timeout_s
        self.timeout = timeout_s  # for connecting and sending
        self.response_class = self._tapped_response  # type: ignore[assignment]  # it is only called

    def connect(self) -> None:
        """Connect, and look at who answers: a name may lead anywhere, and to another place each time it is asked."""
        super().connect()
        if self.check_peer is not None:
            self.check_peer(self.sock.getpeername()[0])

    def send(self, data: Any) -> None:
        """Send bytes, and keep them."""
        self.sent += data
        super().send(data)

    def _tapped_response(self, sock: socket.socket, *args: Any, **kwargs: Any) -> HTTPResponse:
        """Make a response that reads through a tap."""
        response = HTTPResponse(sock, *args, **kwargs)
        response.fp.close()
        self.tap = WireTap(sock, self.deadline)
        response.fp = io.BufferedReader(self.tap)
        return response


class TappedHTTPSConnection(TappedHTTPConnection, HTTPSConnection):
    """A tapped connection with TLS; certificates are verified, and what is kept is the plain text."""
