"""Addresses: one spelling for each, and which of them belong to the crawl."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal
from urllib.parse import urljoin, urlsplit

DEFAULT_PORTS = {"http": 80, "https": 443}

# Longer addresses come from spider traps more often than from authors. Source: Apache Nutch's
# default URL filter rules leave out what is longer than 2,048 characters.
MAX_URL_LENGTH = 2048


def canonical(url: str, base: str | None = None) -> str | None:
    """Return the one spelling of an address, or None for what cannot be crawled over HTTP.

    Scheme and host in lower case, host in ASCII, no default port, no fragment, `.` and `..`
    resolved, illegal characters percent-encoded, `/` for an empty path. Path and query keep their
    case and order: they mean what their server says they mean.

    Args:
        url: an address, or the text of a link.
        base: the address of the page on which `url` stands, for relative links.
    """
    from urllib3.exceptions import LocationParseError
    from urllib3.util import parse_url

    try:
        joined = urljoin(base, url.strip()) if base else url.strip()
        parts = parse_url(joined)
    except (ValueError, LocationParseError):
        return None
    if parts.scheme not in DEFAULT_PORTS or not parts.host or parts.auth:
        return None
    port = None if parts.port in (None, DEFAULT_PORTS[parts.scheme]) else parts.port
    spelled = parts._replace(path=parts.path or "/", port=port, fragment=None).url
    return spelled if len(spelled) <= MAX_URL_LENGTH else None


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
