"""A server that sends exactly the bytes it is told to, at the speed it is told to."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import pytest

Script = list[bytes | float]
"""Bytes to send and seconds to wait, in order; the connection is closed at the end."""


@dataclass
class WireServer:
    """Answers each path by its script; remembers what was asked, and over how many connections."""

    scripts: dict[str, Script]
    requests: list[bytes] = field(default_factory=list)
    n_connections: int = 0

    def __post_init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address: tuple[str, int] = self._listener.getsockname()
        self.url = f"http://127.0.0.1:{self.address[1]}"
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self.n_connections += 1
            with connection:
                connection.settimeout(5)
                self._answer_all(connection)

    def _answer_all(self, connection: socket.socket) -> None:
        """Answer one request, or one after the other where the answer says keep-alive."""
        while True:
            request = b""
            while not request.endswith(b"\r\n\r\n"):
                try:
                    piece = connection.recv(4096)
                except OSError:
                    return
                if not piece:
                    return
                request += piece
            self.requests.append(request)
            script = self.scripts[request.split(b" ")[1].decode()]
            for step in script:
                try:
                    connection.sendall(step) if isinstance(step, bytes) else time.sleep(step)
                except OSError:
                    return
            if b"keep-alive" not in b"".join(s for s in script if isinstance(s, bytes)):
                return


@pytest.fixture
def wire_server() -> Iterator[Callable[[dict[str, Script]], WireServer]]:
    """Start servers: `wire_server({"/": [b"HTTP/1.1 200 OK..."]})`."""
    servers = []

    def start(scripts: dict[str, Script]) -> WireServer:
        servers.append(WireServer(scripts))
        return servers[-1]

    yield start
    for server in servers:
        server.close()
