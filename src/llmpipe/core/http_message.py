"""What the headers of an HTTP message say of its body, read as leniently as browsers read them.

Servers write these headers by hand and by accident: `text/html, charset=utf-8`, a type sent twice, a charset where an encoding
belongs. A reader that takes only the grammar of RFC 9110 loses the pages of such servers without a word.
"""

from __future__ import annotations

import io
import re
import zlib
from typing import IO, Protocol

READ_BYTES = 2**16
INFLATED_BYTES = 2**12
"""Taken at a time by zlib, which at damage loses what it made of them."""
GZIP_MAGIC = b"\x1f\x8b"

_TOKEN = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_ESSENCE = re.compile(rf"\s*(?:content-type\s*:)?\s*[\"']?({_TOKEN}/{_TOKEN})", re.I)
_CHARSET = re.compile(r"charset\s*[=:]\s*[\"']?\s*([\w.:-]+)", re.I)

# Registered codings (IANA, "HTTP Content Coding Registry"), and some that servers use without asking, which nothing here undoes.
# Whatever else stands in the header (`utf-8`, `binary`, `aws-chunked`, ...) is no coding, and the body is as it is: so do browsers.
CODINGS_NOT_READ = frozenset(
    ("compress", "x-compress", "dcb", "dcz", "exi", "pack200-gzip", "bzip2", "bzip", "lzma", "xz")
)


class UnknownCodingError(Exception):
    """The body is compressed in a way that cannot be undone here."""


def parse_media_type(value: str) -> tuple[str, str | None]:
    """Return the media type of a Content-Type header in lower case, empty if it names none, and the charset.

    Of a header that was sent twice the last type counts, and it keeps the charset of an equal one before it.
    Source: WHATWG Fetch, "extract a MIME type". That a blank or a comma may stand for the semicolon is our own.
    """
    essence, charset = "", None
    for part in re.split(r",(?=(?:[^\"]*\"[^\"]*\")*[^\"]*$)", value):
        found = _ESSENCE.match(part)
        if found and found[1] != "*/*":
            if found[1].lower() != essence:
                charset = None
            essence = found[1].lower()
        if named := _CHARSET.search(part):
            charset = named[1]
    return essence, charset


class _Readable(Protocol):
    def read(self, size: int, /) -> bytes: ...


def undo_codings(body: IO[bytes], content_encoding: str) -> _Readable:
    """Return a reader of a body without its content codings; nothing is held but what was asked for.

    A body that does not begin as its gzip says is handed out as it is: it was sent uncompressed.

    Raises:
        UnknownCodingError: naming the coding.
    """
    reader: _Readable = body
    for name in reversed(content_encoding.lower().split(",")):
        coding = name.strip()
        if coding in ("gzip", "x-gzip", "deflate"):
            reader = _Inflating(reader, is_gzip=coding != "deflate")
        elif coding == "br":
            from fastwarc.stream_io import BrotliReader

            reader = BrotliReader(reader)  # type: ignore[arg-type]
        elif coding == "zstd":
            import zstandard

            reader = zstandard.ZstdDecompressor().stream_reader(reader, read_across_frames=True)  # type: ignore[arg-type]
        elif coding in CODINGS_NOT_READ:
            raise UnknownCodingError(coding)
    return reader


def read_up_to(reader: _Readable, n_bytes: int) -> tuple[bytes, bool]:
    """Return the first bytes that a reader gives, and whether they came without damage.

    What stands before the damage is good, and browsers show it.
    """
    content = bytearray()
    while len(content) < n_bytes:
        try:
            piece = reader.read(min(READ_BYTES, n_bytes - len(content)))
        except MemoryError:
            raise
        except Exception:
            # zlib, zstandard and fastwarc each have errors of their own for damaged data.
            return bytes(content), False
        if not piece:
            return bytes(content), not getattr(reader, "is_cut", False)
        content += piece
    return bytes(content), True


class _Inflating:
    """Undoes gzip (of any number of members) or deflate, with the zlib header or, as some servers send it, without."""

    def __init__(self, source: _Readable, is_gzip: bool) -> None:
        self._source = source
        self._is_gzip = is_gzip
        self._waiting = source.read(INFLATED_BYTES)
        self.is_cut = False
        head = self._waiting[:2]
        is_zlib = len(head) == 2 and head[0] & 15 == 8 and int.from_bytes(head, "big") % 31 == 0
        self._wbits = 31 if is_gzip else zlib.MAX_WBITS if is_zlib else -zlib.MAX_WBITS
        self._is_plain = not head or (is_gzip and head != GZIP_MAGIC)
        self._decompressor = zlib.decompressobj(self._wbits)

    def read(self, size: int, /) -> bytes:
        """Return up to `size` bytes, none at the end."""
        if self._is_plain:
            piece, self._waiting = self._waiting[:size], self._waiting[size:]
            return piece or self._source.read(size)
        while True:
            if self._decompressor.eof:
                if len(self._waiting) < 2:
                    self._waiting += self._source.read(INFLATED_BYTES)
                if not self._is_gzip or self._waiting[:2] != GZIP_MAGIC:
                    return b""  # what follows the last member is padding
                self._decompressor = zlib.decompressobj(self._wbits)
            if not self._waiting:
                self._waiting = self._source.read(INFLATED_BYTES)
            is_at_end = not self._waiting
            out = self._decompressor.decompress(self._waiting, size)
            self._waiting = self._decompressor.unconsumed_tail or self._decompressor.unused_data
            if out:
                return out
            if is_at_end and not self._decompressor.eof:
                self.is_cut = True
                return b""


def decode_body(body: bytes, content_encoding: str, max_bytes: int) -> tuple[bytes, bool]:
    """Undo the codings of a body in memory: its first `max_bytes` and one more, and whether they came without damage.

    A page that was sent as it is, although a header says otherwise, is taken as it is.

    Raises:
        UnknownCodingError: naming the coding.
    """
    if not body:
        return b"", True
    content, is_whole = read_up_to(undo_codings(io.BytesIO(body), content_encoding), max_bytes + 1)
    if not content and not is_whole and body.lstrip().startswith(b"<"):
        return body[: max_bytes + 1], True
    return content, is_whole
