"""Addresses: one spelling for each, and which of them belong to the crawl."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Literal
from urllib.parse import quote, urljoin, urlsplit

DEFAULT_PORTS = {"http": 80, "https": 443}

# Longer addresses come from spider traps more often than from authors. Source: Apache Nutch's
# default URL filter rules leave out what is longer than 2,048 characters.
MAX_URL_LENGTH = 2048


_LONE_PERCENT = re.compile("%(?![0-9A-Fa-f]{2})")
_NOT_ASCII = re.compile("[^\0-\x7f]+")
_NOT_ASCII_CHARACTER = re.compile("[^\0-\x7f]")
_IGNORED = re.compile("[\t\n\r]")
_AROUND = "".join(map(chr, range(0x21)))  # C0 controls and the blank


def canonical(url: str, base: str | None = None, encoding: str = "utf-8") -> str | None:
    """Return the one spelling of an address, or None for what cannot be crawled over HTTP.

    Scheme and host in lower case, host in ASCII, no default port, no fragment, `.` and `..`
    resolved, illegal characters percent-encoded, `/` for an empty path. Path and query keep their
    case and order: they mean what their server says they mean.

    Args:
        url: an address, or the text of a link.
        base: the address of the page on which `url` stands, for relative links.
        encoding: of that page, as a codec. What is not ASCII is percent-encoded as UTF-8 in a path and in the page's
            encoding in a query, because a form on that page would send it so. Source: WHATWG URL, "percent-encode after encoding".
    """
    from urllib3.exceptions import LocationParseError
    from urllib3.util import parse_url

    text = _IGNORED.sub("", url.strip(_AROUND))
    before, question_mark, query = text.partition("#")[0].partition("?")
    # A percent sign that begins no escape is itself; a parser that doubts it would encode the escapes beside it again.
    path = _LONE_PERCENT.sub("%25", before.replace("\\", "/"))
    query = _LONE_PERCENT.sub("%25", _in_encoding(query, encoding))
    try:
        joined = (
            urljoin(base, path + question_mark + query) if base else path + question_mark + query
        )
        parts = parse_url(joined)
    except (ValueError, LocationParseError):
        return None
    if parts.scheme not in DEFAULT_PORTS or not parts.host or parts.auth:
        return None
    port = None if parts.port in (None, DEFAULT_PORTS[parts.scheme]) else parts.port
    spelled = parts._replace(path=parts.path or "/", port=port, fragment=None).url
    return spelled if len(spelled) <= MAX_URL_LENGTH else None


def _in_encoding(query: str, encoding: str) -> str:
    """Percent-encode what is not ASCII; what the encoding lacks becomes a character reference, as in a form."""

    def encoded(run: re.Match[str]) -> str:
        try:
            return quote(run[0].encode(encoding), safe="")
        except UnicodeEncodeError:
            if len(run[0]) > 1:
                return _NOT_ASCII_CHARACTER.sub(encoded, run[0])
            return f"%26%23{ord(run[0])}%3B"

    return _NOT_ASCII.sub(encoded, query)


def origin(url: str) -> str:
    """Return scheme, host and port of a canonical address: whom robots.txt and pauses belong to."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"


class Scope:
    """Which addresses belong to the crawl, judged by its seeds.

    `http` and `https` on their default ports are one site; any other port is another site.
    """

    def __init__(self, kind: Literal["host", "prefix"], seeds: Sequence[str]) -> None:
        self._kind = kind
        self._sites = {_site(seed) for seed in seeds}
        self._prefixes = tuple({_site(seed) + _folder(seed) for seed in seeds})

    def holds(self, url: str) -> bool:
        """Tell whether a canonical address belongs to the crawl."""
        if self._kind == "host":
            return _site(url) in self._sites
        return (_site(url) + urlsplit(url).path).startswith(self._prefixes)


def _site(url: str) -> str:
    return urlsplit(url).netloc


def _folder(url: str) -> str:
    return urlsplit(url).path.rpartition("/")[0] + "/"
