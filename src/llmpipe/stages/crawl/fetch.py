"""One HTTP request: no retry, no redirect, no pause. What fails is an error with a countable name."""

from __future__ import annotations

import contextlib
import re
import ssl
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from http.client import HTTPException
from typing import BinaryIO
from urllib.parse import quote, urlsplit

from urllib3 import BaseHTTPResponse, HTTPHeaderDict
from urllib3.exceptions import (
    ConnectTimeoutError,
    HTTPError,
    NameResolutionError,
    NewConnectionError,
    ProtocolError,
    ReadTimeoutError,
)

from llmpipe.core.http_message import parse_media_type
from llmpipe.stages.crawl.outcomes import (
    BAD_RESPONSE,
    PRIVATE_ADDRESS,
    TIMEOUT,
    TOO_LARGE,
    UNREACHABLE,
    WRONG_TYPE,
)
from llmpipe.stages.crawl.urls import DEFAULT_PORTS, origin
from llmpipe.stages.crawl.wire import TappedHTTPConnection, TappedHTTPSConnection

READ_BYTES = 2**16

# The empty line that ends a head; lone line feeds are what http.client and WARC readers accept too.
_ASCII = "".join(map(chr, range(128)))

END_OF_HEAD = re.compile(rb"\n\r?\n")


class FetchError(Exception):
    """A request that brought no response worth keeping.

    Args:
        outcome: one of the names in `outcomes`, under which the address is counted.
        detail: what happened, for people.
        content_type: what came instead of a page.
    """

    def __init__(self, outcome: str, detail: str, content_type: str = "") -> None:
        super().__init__(detail)
        self.outcome = outcome
        self.detail = detail
        self.content_type = content_type


@dataclass(frozen=True)
class BodySink:
    """Where a body goes that is read once and not stored: a larger one is cut there, not refused."""

    file: BinaryIO
    max_bytes: int


@dataclass(frozen=True)
class Response:
    """A response that came completely, and the request it answers."""

    url: str
    status: int
    headers: HTTPHeaderDict
    request_head: bytes
    """The request as sent."""
    head: bytes
    """Status line, headers and the empty line as received."""
    body: bytes
    """What followed the head as received, chunk sizes and compression included."""
    content: bytes
    """The body without chunk sizes, still compressed."""
    ip: str
    fetched_at: datetime
    is_cut: bool = False
    """Only the first bytes of the body were taken."""

    @property
    def content_type(self) -> str:
        """The media type in lower case, without parameters; empty if the server named none."""
        return parse_media_type(self.headers.get("content-type", ""))[0]

    @property
    def charset(self) -> str | None:
        """The charset that the Content-Type header names."""
        return parse_media_type(self.headers.get("content-type", ""))[1]

    @property
    def location(self) -> str:
        """Where a redirect leads, as it was sent; empty if it does not say.

        Bytes outside ASCII are percent-encoded one by one, whatever their encoding: those are the bytes that the server
        will look for. Browsers do the same.
        """
        sent: list[str] = self.headers.getlist("location")
        return quote(sent[0].encode("latin-1"), safe=_ASCII) if sent else ""


class Fetcher:
    """Sends requests over one connection at a time, which is kept while the host stays the same.

    Args:
        user_agent: the User-Agent header.
        timeout_s: for one request, from connecting to the last byte (looking up the host's name
            is left to the system, which has its own limit).
        max_bytes: the largest body to take.
        connect_to: host name -> (address, port) of servers that no name service knows.
        may_connect: asked with a canonical address and the IP address it leads to, before a request is sent.
    """

    def __init__(
        self,
        user_agent: str,
        timeout_s: float,
        max_bytes: int,
        connect_to: Mapping[str, tuple[str, int]] | None = None,
        may_connect: Callable[[str, str], bool] = lambda url, ip: True,
    ) -> None:
        self._user_agent = user_agent
        self._timeout_s = timeout_s
        self._max_bytes = max_bytes
        self._connect_to = connect_to or {}
        self._may_connect = may_connect
        self._connection: TappedHTTPConnection | None = None
        self._origin = ""

    def close(self) -> None:
        """Close the connection that is kept."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def get(
        self,
        url: str,
        content_types: Collection[str] | None = None,
        sink: BodySink | None = None,
    ) -> Response:
        """Fetch a canonical address.

        Args:
            url: what to fetch.
            content_types: the media types wanted of a good answer (status 2xx); None takes all.
            sink: takes the body in place of the response, which then keeps nothing of what was received.

        Raises:
            FetchError: no connection, no answer in time, not HTTP, too large, or not wanted.
        """
        try:
            return self._exchange(url, content_types, sink)
        except (FetchError, KeyboardInterrupt):
            self.close()
            raise
        except (HTTPError, HTTPException, OSError) as error:
            self.close()
            raise _explain(error) from None

    def _exchange(
        self, url: str, content_types: Collection[str] | None, sink: BodySink | None
    ) -> Response:
        parts = urlsplit(url)
        connection = self._connection_to(url)
        connection.expect(self._timeout_s)
        headers = {
            "Host": parts.netloc,
            "User-Agent": self._user_agent,
            "Accept": ", ".join(content_types) if content_types else "*/*",
            "Accept-Encoding": "gzip",
        }
        target = parts.path + (f"?{parts.query}" if parts.query else "")
        connection.request("GET", target, headers=headers, preload_content=False)
        fetched_at = datetime.now(UTC)
        assert connection.sock is not None
        ip = connection.sock.getpeername()[0]
        with contextlib.closing(connection.getresponse()) as response:
            if content_types and 200 <= response.status < 300:
                found, _ = parse_media_type(response.headers.get("content-type", ""))
                if found not in content_types:
                    sent = response.headers.get("content-type")
                    reason = "" if found else f"Content-Type: {sent}" if sent else "no Content-Type"
                    raise FetchError(WRONG_TYPE, reason, found)
            if sink is not None:
                is_cut = self._pour(response, connection, sink)
                return Response(
                    url=url,
                    status=response.status,
                    headers=response.headers,
                    request_head=bytes(connection.sent),
                    head=b"",
                    body=b"",
                    content=b"",
                    ip=ip,
                    fetched_at=fetched_at,
                    is_cut=is_cut,
                )
            content = self._read(response)
        assert connection.tap is not None
        received = bytes(connection.tap.received)
        end_of_head = END_OF_HEAD.search(received)
        if end_of_head is None:
            raise FetchError(BAD_RESPONSE, "the connection ended inside the headers")
        # Without chunks the content is the body, and what a server sends beyond it is no part of it.
        body = received[end_of_head.end() :] if response.chunked else content
        return Response(
            url=url,
            status=response.status,
            headers=response.headers,
            request_head=bytes(connection.sent),
            head=received[: end_of_head.end()],
            body=body,
            content=content,
            ip=ip,
            fetched_at=fetched_at,
        )

    def _connection_to(self, url: str) -> TappedHTTPConnection:
        """Return the connection kept, if it leads to the same place and is open, or a new one."""
        kept = self._connection
        if kept is not None and self._origin == origin(url) and kept.is_connected:
            return kept
        self.close()
        parts = urlsplit(url)
        host = parts.hostname or ""
        address = (host, parts.port or DEFAULT_PORTS[parts.scheme])
        address = self._connect_to.get(host, address)
        kind = TappedHTTPSConnection if parts.scheme == "https" else TappedHTTPConnection
        self._connection = kind(*address, timeout=self._timeout_s)
        self._connection.check_peer = lambda ip: self._check_peer(url, ip)
        self._origin = origin(url)
        return self._connection

    def _check_peer(self, url: str, ip: str) -> None:
        if not self._may_connect(url, ip):
            raise FetchError(PRIVATE_ADDRESS, f"leads to {ip}")

    def _pour(
        self, response: BaseHTTPResponse, connection: TappedHTTPConnection, sink: BodySink
    ) -> bool:
        """Write the body to a file, and tell whether there was more of it than is taken."""
        sink.file.seek(0)
        sink.file.truncate()
        left = sink.max_bytes
        for piece in response.stream(READ_BYTES, decode_content=False):
            assert connection.tap is not None
            connection.tap.received.clear()
            sink.file.write(piece[:left])
            left -= len(piece)
            if left < 0:
                self.close()  # the rest may be long
                return True
        return False

    def _read(self, response: BaseHTTPResponse) -> bytes:
        announced = response.headers.get("content-length", "")
        if announced.isdecimal() and int(announced) > self._max_bytes:
            raise FetchError(TOO_LARGE, f"{announced} bytes announced")
        content = bytearray()
        for piece in response.stream(READ_BYTES, decode_content=False):
            content += piece
            if len(content) > self._max_bytes:
                raise FetchError(TOO_LARGE, f"more than {self._max_bytes} bytes")
        return bytes(content)


def _explain(error: Exception) -> FetchError:
    """Sort the many ways in which a request can fail under four names."""
    if isinstance(error, TimeoutError | ReadTimeoutError):
        return FetchError(TIMEOUT, "no complete answer in time")
    if isinstance(error, NameResolutionError):
        return FetchError(UNREACHABLE, "the host has no address")
    if isinstance(error, NewConnectionError):
        return FetchError(UNREACHABLE, _system_words(error.__cause__ or error))
    if isinstance(error, ConnectTimeoutError):  # the class above is one of these, too
        return FetchError(UNREACHABLE, "no connection in time")
    if isinstance(error, OSError):
        return FetchError(UNREACHABLE, _system_words(error))
    if isinstance(error, ProtocolError):
        return FetchError(UNREACHABLE, "the connection broke off")
    return FetchError(BAD_RESPONSE, f"not HTTP as we know it: {type(error).__name__}")


def _system_words(error: BaseException) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"certificate refused: {error.verify_message}"
    words = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return str(words).lower()
