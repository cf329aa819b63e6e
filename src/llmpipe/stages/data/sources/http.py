"""The HTTP response inside a record: status, type, and the body with its encodings undone.

Servers and crawlers lie about encodings: a body announced as chunked or gzip is often stored decoded.
A body that does not look like what its header says is taken as it is.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from llmpipe.core import http_message

_STATUS = re.compile(rb"HTTP/[\d.]+ +(\d{3})")
_HEADER_END = re.compile(rb"\r?\n\r?\n")
_CHUNK_SIZE = re.compile(rb"[ \t]*([0-9A-Fa-f]{1,8})[^\r\n]{0,200}\r?\n")


class BadBody(Exception):
    """The body cannot be decoded; the message is the reason to count."""


@dataclass(frozen=True)
class StoredResponse:
    """An HTTP response as stored."""

    status: int
    headers: Mapping[str, str]
    """Names in lower case."""
    body: bytes

    @property
    def mime(self) -> str:
        """The media type without parameters, in lower case; empty if none is given."""
        return http_message.parse_media_type(self.headers.get("content-type", ""))[0]

    @property
    def charset(self) -> str | None:
        """The charset named in `Content-Type`."""
        return http_message.parse_media_type(self.headers.get("content-type", ""))[1]


def parse_response(block: bytes) -> StoredResponse | None:
    """Split a block into status line, headers and body; None if it is not an HTTP response."""
    status = _STATUS.match(block)
    if status is None:
        return None
    end = _HEADER_END.search(block, 0, 1 << 17)
    head, body = (block[: end.start()], block[end.end() :]) if end else (block, b"")
    headers: dict[str, str] = {}
    for line in re.split(r"\r?\n", head.decode("latin-1"))[1:]:
        name, colon, value = line.partition(":")
        if colon:
            headers.setdefault(name.strip().lower(), value.strip())
    return StoredResponse(int(status[1]), headers, body)


def decode_body(response: StoredResponse, max_bytes: int) -> bytes:
    """Undo transfer and content encodings, never producing more than `max_bytes`.

    Raises:
        BadBody: `damaged_body`, `over_limit` or `unknown_encoding`.
    """
    body = response.body
    if "chunked" in response.headers.get("transfer-encoding", "").lower():
        body = join_chunks(body)
    coding = response.headers.get("content-encoding", "")
    try:
        content, is_whole = http_message.decode_body(body, coding, max_bytes)
    except http_message.UnknownCodingError:
        raise BadBody("unknown_encoding") from None
    if len(content) > max_bytes:
        raise BadBody("over_limit")
    if not content and not is_whole:
        raise BadBody("damaged_body")
    return content  # a body cut by the crawler's size limit ends early; what there is of it is good


def join_chunks(body: bytes) -> bytes:
    """Join an HTTP/1.1 chunked body; a body that does not begin with a chunk size is returned as it is."""
    parts: list[bytes] = []
    position = 0
    while match := _CHUNK_SIZE.match(body, position):
        size = int(match[1], 16)
        if size == 0:
            return b"".join(parts)
        parts.append(body[match.end() : match.end() + size])
        position = match.end() + size
        if body[position : position + 2] == b"\r\n":
            position += 2
        elif body[position : position + 1] == b"\n":
            position += 1
        elif position < len(body) and len(parts) == 1:
            return body  # the first "size" was text that happens to be hexadecimal
    return b"".join(parts) if parts else body
