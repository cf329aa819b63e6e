"""Maps of sites (sitemaps.org): lists of their addresses, which robots.txt names or which lie at `/sitemap.xml`.

They are read once, before the first page, and what they said is kept in `state/`, so that a crawl that goes on has the same
addresses. A map that is missing or broken is no error: links lead on all the same.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Sequence
from pathlib import Path

from llmpipe.core.artifact import write_atomic
from llmpipe.core.console import Console
from llmpipe.stages.crawl.crawler import Crawler
from llmpipe.stages.crawl.fetch import FetchError
from llmpipe.stages.crawl.links import TooLargeError, decompress
from llmpipe.stages.crawl.urls import canonical, origin

MAX_MAPS = 500
"""Maps that are read in all; an index may name 50,000 (sitemaps.org)."""


def read_sitemaps(
    seeds: Sequence[str], crawler: Crawler, state: Path, max_addresses: int, console: Console
) -> list[tuple[str, str]]:
    """Return (address, the map it stands in), or what an earlier attempt noted in `state`."""
    path = state / "sitemaps.json"
    if path.is_file():
        return [(url, found_on) for url, found_on in json.loads(path.read_text(encoding="utf-8"))]
    queue: deque[str] = deque()
    for host in dict.fromkeys(map(origin, seeds)):
        queue.extend(crawler.sitemaps_of(host))
    seen: set[str] = set()
    found: dict[str, str] = {}
    while queue and len(seen) < MAX_MAPS and len(found) < max_addresses:
        url = queue.popleft()
        if url in seen:
            continue
        seen.add(url)
        try:
            pages, maps = parse_sitemap(crawler.fetch_sitemap(url), url, crawler.max_bytes)
        except (FetchError, TooLargeError) as error:
            console.debug(f"no map at {url}: {error}")
            continue
        queue.extend(maps)
        for page in pages[: max_addresses - len(found)]:
            found.setdefault(page, url)
    write_atomic(path, json.dumps(list(found.items())))
    return list(found.items())


def parse_sitemap(content: bytes, url: str, max_bytes: int) -> tuple[list[str], list[str]]:
    """Return the addresses of pages and of further maps, of XML (plain or gzip) or of text with one address a line.

    Raises:
        TooLargeError: it is larger than `max_bytes` once it is decompressed.
    """
    import lxml.etree

    if content[:2] == b"\x1f\x8b":
        content = decompress(content, "gzip", max_bytes) or b""
    if not content.lstrip().startswith(b"<"):
        lines = content.decode("utf-8", errors="replace").splitlines()
        return [page for line in lines if (page := canonical(line)) is not None], []
    # No entity is resolved: a map is a list, and an entity in it can only be an attack.
    parser = lxml.etree.XMLParser(resolve_entities=False, no_network=True, recover=True)
    root = lxml.etree.fromstring(content, parser)
    pages: list[str] = []
    maps: list[str] = []
    for entry in root if root is not None else ():
        location = entry.xpath("string(*[local-name() = 'loc'])")
        address = canonical(location, url) if location.strip() else None
        if address is not None:
            is_map = lxml.etree.QName(entry).localname == "sitemap"
            (maps if is_map else pages).append(address)
    return pages, maps
