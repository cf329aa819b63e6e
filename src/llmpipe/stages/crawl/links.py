"""From the bytes of a page to the addresses it links to."""

from __future__ import annotations

import zlib
from dataclasses import dataclass

from llmpipe.stages.crawl.urls import canonical


class TooLargeError(Exception):
    """A body is larger than allowed once it is decompressed."""


def decompress(body: bytes, encoding: str, max_bytes: int) -> bytes | None:
    """Undo a Content-Encoding, or return None for one that is not known here.

    A broken end is forgiven: what could be read is returned, as browsers do.

    Raises:
        TooLargeError: if more than `max_bytes` come out; no more than that is ever held.
    """
    encoding = encoding.strip().lower()
    if encoding in ("", "identity"):
        return body
    if encoding not in ("gzip", "x-gzip", "deflate"):
        return None
    # 32 recognizes gzip and zlib by their headers; some servers send deflate without either.
    window = (
        -zlib.MAX_WBITS if encoding == "deflate" and body[:1] != b"\x78" else 32 + zlib.MAX_WBITS
    )
    decompressor = zlib.decompressobj(window)
    try:
        text = decompressor.decompress(body, max_bytes + 1)
    except zlib.error:
        return b""
    if len(text) > max_bytes:
        raise TooLargeError
    return text


@dataclass(frozen=True)
class Links:
    """What a page says of addresses."""

    anchors: tuple[str, ...] = ()
    """Where its links lead, in order, each once."""
    canonical: str | None = None
    """The address that it gives as its own, by `<link rel="canonical">` (RFC 6596)."""


def extract_links(html: bytes, charset: str | None, url: str) -> Links:
    """Return the canonical spellings of the addresses in a page.

    Args:
        html: the page, decompressed.
        charset: from the Content-Type header; without it the parser looks for a `<meta>`.
        url: the address of the page, which relative links continue unless a `<base>` says otherwise.
    """
    import lxml.etree
    import lxml.html

    try:
        parser = lxml.html.HTMLParser(encoding=charset)
    except LookupError:  # a charset that nobody knows
        parser = lxml.html.HTMLParser()
    try:
        document = lxml.html.document_fromstring(html, parser=parser)
    except (lxml.etree.LxmlError, ValueError):
        return Links()
    stated_base = document.xpath("string(//base/@href)")
    base = canonical(stated_base, url) or url
    found = (canonical(href, base) for href in document.xpath("//a/@href"))
    anchors = tuple(dict.fromkeys(link for link in found if link is not None))
    own = document.xpath(
        "string(//link[translate(@rel, 'CANONIL', 'canonil') = 'canonical']/@href)"
    )
    return Links(anchors, canonical(own, base) if own.strip() else None)
