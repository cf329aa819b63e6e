"""From the bytes of a page to the addresses it links to."""

from __future__ import annotations

import zlib

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


def extract_links(html: bytes, charset: str | None, url: str) -> list[str]:
    """Return the canonical addresses in the anchors of a page, in order, each once.

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
        return []
    stated_base = document.xpath("string(//base/@href)")
    base = canonical(stated_base, url) or url
    found = (canonical(href, base) for href in document.xpath("//a/@href"))
    return list(dict.fromkeys(link for link in found if link is not None))
