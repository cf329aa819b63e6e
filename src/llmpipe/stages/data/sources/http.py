"""The HTTP response inside a record: status, type, and the body with its encodings undone.

Servers and crawlers lie about encodings: a body announced as chunked or gzip is often stored decoded.
A body that does not look like what its header says is taken as it is.
"""

from __future__ import annotations

import io
import re
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

_STATUS = re.compile(rb"HTTP/[\d.]+ +(\d{3})")
_CHARSET = re.compile(r"charset\s*=\s*[\"']?([\w.:-]{1,40})", re.I)
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
        return self.headers.get("content-type", "").partition(";")[0].strip().lower()

    @property
    def charset(self) -> str | None:
        """The charset named in `Content-Type`."""
        match = _CHARSET.search(self.headers.get("content-type", ""))
        return match[1] if match else None


def parse_response(block: bytes) -> StoredResponse | None:
    """Split a block into status line, headers and body; None if it is not an HTTP response."""
    status = _STATUS.match(block)
    if status is None:
        return None
    end = _HEADER_END.search(block, 0, 1 << 17)
    head, body = (block[: end.start()], block[end.end() :]) if end else (block, b"")
    headers: dict[str, str] = {}
    for line in head.decode("latin-1").splitlines()[1:]:
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
    for name in reversed(response.headers.get("content-encoding", "").lower().split(",")):
        body = _undo(name.strip(), body, max_bytes)
    if len(body) > max_bytes:
        raise BadBody("over_limit")
    return body


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


def _undo(encoding: str, body: bytes, max_bytes: int) -> bytes:
    if encoding in ("", "identity", "none", "utf-8"):
        return body
    if encoding in ("gzip", "x-gzip"):
        return _inflate(body, 16 + zlib.MAX_WBITS, max_bytes) if body[:2] == b"\x1f\x8b" else body
    if encoding == "deflate":
        if body[:1].isspace() or body[:1] == b"<":
            return body
        is_zlib = len(body) > 1 and body[0] & 15 == 8 and (body[0] << 8 | body[1]) % 31 == 0
        return _inflate(body, zlib.MAX_WBITS if is_zlib else -zlib.MAX_WBITS, max_bytes)
    if encoding == "br":
        from fastwarc.stream_io import BrotliReader

        return _read_bounded(BrotliReader(io.BytesIO(body)), body, max_bytes)
    if encoding == "zstd":
        import zstandard

        reader = zstandard.ZstdDecompressor().stream_reader(body, read_across_frames=True)
        return _read_bounded(reader, body, max_bytes)
    raise BadBody("unknown_encoding")


def _inflate(body: bytes, window: int, max_bytes: int) -> bytes:
    inflate = zlib.decompressobj(window)
    try:
        data = inflate.decompress(body, max_bytes + 1)
    except zlib.error:
        raise BadBody("damaged_body") from None
    if len(data) > max_bytes:
        raise BadBody("over_limit")
    if not inflate.eof and not data:
        raise BadBody("damaged_body")
    return data  # a body cut by the crawler's size limit ends early; what there is of it is good


def _read_bounded(reader: Any, body: bytes, max_bytes: int) -> bytes:
    """Read a decoder to its end or the bound. Text announced as compressed is taken as it is."""
    parts, size = [], 0
    try:
        while size <= max_bytes and (part := reader.read(1 << 20)):
            parts.append(part)
            size += len(part)
    except Exception as error:  # each codec has its own error class
        if not parts and body.lstrip()[:1] == b"<":
            return body
        if not parts:
            raise BadBody("damaged_body") from error
    if size > max_bytes:
        raise BadBody("over_limit")
    return b"".join(parts)
