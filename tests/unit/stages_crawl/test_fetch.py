"""Single requests against a server that sends prepared bytes."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator

import pytest

from llmpipe.stages.crawl.fetch import Fetcher, FetchError
from llmpipe.stages.crawl.outcomes import (
    BAD_RESPONSE,
    TIMEOUT,
    TOO_LARGE,
    UNREACHABLE,
    WRONG_TYPE,
)

HTML = ("text/html",)
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/html; charset=UTF-8\r\n"
Serve = Callable[..., object]


@pytest.fixture
def fetcher() -> Iterator[Fetcher]:
    fetcher = Fetcher("tester/1", timeout_s=1.0, max_bytes=1000)
    yield fetcher
    fetcher.close()


def test_bytes_of_request_and_response_are_kept_as_sent(
    wire_server: Serve, fetcher: Fetcher
) -> None:
    head = (
        b"HTTP/1.1 200 Very  Well\r\ncontent-TYPE:text/html ;Charset=\"utf-8\"\r\n"
        b"X-Twice: 1\r\nX-Twice:\t2\r\nContent-Length: 5\r\n\r\n"
    )  # fmt: skip
    server = wire_server({"/a?b=c": [head + b"hello"]})
    response = fetcher.get(f"{server.url}/a?b=c", HTML)
    assert (response.head, response.body, response.content) == (head, b"hello", b"hello")
    assert (response.status, response.content_type, response.charset) == (200, "text/html", "utf-8")
    assert response.ip == "127.0.0.1"
    assert [response.request_head] == server.requests
    port = server.address[1]
    assert (
        response.request_head
        == (
            f"GET /a?b=c HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nUser-Agent: tester/1\r\n"
            "Accept: text/html\r\nAccept-Encoding: gzip\r\n\r\n"
        ).encode()
    )


def test_chunks_are_kept_in_the_body_and_undone_in_the_content(
    wire_server: Serve, fetcher: Fetcher
) -> None:
    chunks = b"3\r\nabc\r\n4;ext=1\r\ndefg\r\n0\r\n\r\n"
    server = wire_server({"/": [HEAD + b"Transfer-Encoding: chunked\r\n\r\n", 0.01, chunks]})
    response = fetcher.get(f"{server.url}/", HTML)
    assert response.body == chunks
    assert response.content == b"abcdefg"


def test_bytes_after_the_announced_length_are_no_part_of_the_body(
    wire_server: Serve, fetcher: Fetcher
) -> None:
    server = wire_server({"/": [HEAD + b"Content-Length: 2\r\n\r\nok and more"]})
    assert fetcher.get(f"{server.url}/", HTML).body == b"ok"


def test_connection_is_kept_for_the_next_request(wire_server: Serve, fetcher: Fetcher) -> None:
    answer = HEAD + b"Connection: keep-alive\r\nContent-Length: 2\r\n\r\n"
    server = wire_server({"/1": [answer + b"11"], "/2": [answer + b"22"]})
    bodies = [fetcher.get(f"{server.url}/{i}", HTML).body for i in (1, 2, 1)]
    assert bodies == [b"11", b"22", b"11"]
    assert server.n_connections == 1


def test_closed_connection_is_replaced(wire_server: Serve, fetcher: Fetcher) -> None:
    server = wire_server({"/": [HEAD + b"Content-Length: 2\r\n\r\nok"]})
    for _ in range(2):
        assert fetcher.get(f"{server.url}/", HTML).body == b"ok"
        time.sleep(0.02)  # until the server's end of the connection has arrived
    assert server.n_connections == 2


def test_name_can_be_connected_to_an_address(wire_server: Serve) -> None:
    server = wire_server({"/": [HEAD + b"Content-Length: 2\r\n\r\nok"]})
    fetcher = Fetcher("t", 1.0, 100, connect_to={"pages.localhost": server.address})
    response = fetcher.get("http://pages.localhost/", HTML)
    fetcher.close()
    assert b"\r\nHost: pages.localhost\r\n" in response.request_head


@pytest.mark.parametrize(
    ("script", "outcome", "detail"),
    [
        ([HEAD + b"Content-Length: 5000\r\n\r\n"], TOO_LARGE, "5000 bytes announced"),
        ([HEAD + b"\r\n" + b"x" * 5000], TOO_LARGE, "more than 1000 bytes"),
        (
            [HEAD + b"Transfer-Encoding: chunked\r\n\r\n1388\r\n" + b"x" * 5000 + b"\r\n0\r\n\r\n"],
            TOO_LARGE,
            "more than 1000 bytes",
        ),
        ([b"HTTP/1.1 200 OK\r\nContent-Type: image/png\r\n\r\n"], WRONG_TYPE, ""),
        ([b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"], WRONG_TYPE, "no Content-Type"),
        ([HEAD + b"Content-Length: 50\r\n\r\nfew"], UNREACHABLE, "the connection broke off"),
        ([], UNREACHABLE, "remote end closed connection without response"),
        ([b"SSH-2.0-OpenSSH\r\n\r\n"], BAD_RESPONSE, "not HTTP as we know it: BadStatusLine"),
        ([b"HTTP/1.1 200 OK\r\nX: y"], BAD_RESPONSE, None),
    ],
)
def test_failures_have_names(
    wire_server: Serve, fetcher: Fetcher, script: list[bytes], outcome: str, detail: str | None
) -> None:
    server = wire_server({"/": script})
    with pytest.raises(FetchError) as caught:
        fetcher.get(f"{server.url}/", None if detail is None else HTML)
    assert caught.value.outcome == outcome
    if detail is not None:
        assert caught.value.detail == detail


def test_error_page_of_another_type_is_taken(wire_server: Serve, fetcher: Fetcher) -> None:
    answer = b"HTTP/1.1 404 Not Found\r\nContent-Type: text/plain\r\nContent-Length: 2\r\n\r\nno"
    server = wire_server({"/": [answer]})
    assert fetcher.get(f"{server.url}/", HTML).status == 404


def test_nobody_listening_is_unreachable(fetcher: Fetcher) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with pytest.raises(FetchError) as caught:
        fetcher.get(f"http://127.0.0.1:{port}/", HTML)
    assert (caught.value.outcome, caught.value.detail) == (UNREACHABLE, "connection refused")


@pytest.mark.parametrize(
    "script",
    [
        [1.0],
        [HEAD + b"\r\n", *[x for _ in range(60) for x in (b"drip", 0.05)]],
        [b"HTTP/1.1 200 OK\r\n", *[x for _ in range(60) for x in (b"X: y\r\n", 0.05)]],
    ],
    ids=["silent", "drips its body", "drips its head"],
)
def test_deadline_holds_for_the_whole_response(wire_server: Serve, script: list[object]) -> None:
    """A timeout per read would never end a server that sends a little all the time."""
    server = wire_server({"/": script})
    fetcher = Fetcher("t", timeout_s=0.3, max_bytes=10_000)
    started = time.monotonic()
    with pytest.raises(FetchError) as caught:
        fetcher.get(f"{server.url}/", HTML)
    assert caught.value.outcome == TIMEOUT
    assert 0.25 < time.monotonic() - started < 1.5  # generous above, for a busy machine
