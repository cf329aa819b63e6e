"""Maps of sites (sitemaps.org): lists of their addresses, which robots.txt names or which lie at `/sitemap.xml`.

They are read once, before the first page, and what they said is kept in `state/`, so that a crawl that goes on has the same
addresses. A map that is missing or broken is no error, since links lead on all the same; but it is counted, and said.
"""

from __future__ import annotations

import dataclasses
import json
import tempfile
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from llmpipe.core.artifact import write_atomic
from llmpipe.core.console import Console
from llmpipe.core.http_message import UnknownCodingError
from llmpipe.stages.crawl.crawler import Crawler
from llmpipe.stages.crawl.fetch import FetchError
from llmpipe.stages.crawl.outcomes import (
    BAD_ENCODING,
    MAP_LIMIT,
    MAP_READ,
    NO_ADDRESS,
    NO_MAP,
    meaning,
)
from llmpipe.stages.crawl.sitemap_reader import SitemapReader
from llmpipe.stages.crawl.urls import canonical, origin

MAX_MAPS = 500
"""Maps that are read in all; an index may name 50,000 (sitemaps.org)."""
MAX_ADDRESSES = 50_000
"""Addresses of pages taken from one map, and of maps in all. Source: sitemaps.org, which allows no more in one file."""

N_SAID = 5

ADDRESS_LIMIT = "address_limit"


@dataclass
class MapVisit:
    """What became of one map."""

    url: str
    found_on: str | None
    """The map or the robots.txt that names it; None for the usual place."""
    outcome: str
    detail: str = ""
    addresses: int = 0
    """Of pages, taken from it."""
    maps: int = 0
    """Further maps that it names."""
    passed_over: dict[str, int] = field(default_factory=dict)
    """Entries that were not taken, by reason."""

    def pass_over(self, reason: str) -> None:
        """Count an entry that is not taken."""
        self.passed_over[reason] = self.passed_over.get(reason, 0) + 1


@dataclass
class SiteMaps:
    """What the maps of all seeds hold."""

    addresses: dict[str, str] = field(default_factory=dict)
    """Address -> the map it stands in, in the order in which they were found."""
    visits: list[MapVisit] = field(default_factory=list)

    def lines(self) -> str:
        """Return one line of JSON for each map."""
        return "".join(json.dumps(dataclasses.asdict(visit)) + "\n" for visit in self.visits)


def read_sitemaps(
    seeds: Sequence[str],
    crawler: Crawler,
    state: Path,
    holds: Callable[[str], bool],
    max_pages: int,
    console: Console,
) -> SiteMaps:
    """Return what the maps hold, or what an earlier attempt noted in `state`.

    Args:
        seeds: canonical addresses, whose hosts are asked.
        crawler: fetches, as far as it may.
        state: the crawl's folder for this.
        holds: tells which addresses belong to the crawl.
        max_pages: no further map is read once so many addresses of the crawl are known.
        console: told what was not read.
    """
    path = state / "sitemaps.json"
    if path.is_file():
        kept = json.loads(path.read_text(encoding="utf-8"))
        return SiteMaps(kept["addresses"], [MapVisit(**visit) for visit in kept["visits"]])
    found = SiteMaps()
    queue: deque[tuple[str, str | None]] = deque()
    for host in dict.fromkeys(map(origin, seeds)):
        queue.extend(crawler.sitemaps_of(host))
    known = {url for url, _ in queue}
    n_inside = 0
    while queue:
        visit = MapVisit(*queue.popleft(), MAP_READ)
        found.visits.append(visit)
        if len(found.visits) > MAX_MAPS or n_inside >= max_pages:
            visit.outcome = MAP_LIMIT
            continue
        if canonical(visit.url) is None:  # a line of robots.txt may say anything
            visit.outcome = NO_ADDRESS
            continue
        for is_map, address in _entries(crawler, visit):
            if address in (known if is_map else found.addresses):
                continue
            if (len(known) if is_map else visit.addresses) >= MAX_ADDRESSES:
                visit.pass_over(ADDRESS_LIMIT)
            elif is_map:
                known.add(address)
                queue.append((address, visit.url))
                visit.maps += 1
            else:
                found.addresses[address] = visit.url
                visit.addresses += 1
                n_inside += holds(address)
    write_atomic(path, json.dumps(dataclasses.asdict(found)))
    _say(found, console)
    return found


def _entries(crawler: Crawler, visit: MapVisit) -> Iterator[tuple[bool, str]]:
    """Fetch a map and yield its addresses, and note in `visit` what kept it from being read, or read whole."""
    with tempfile.TemporaryFile() as file:
        try:
            response = crawler.fetch_sitemap(visit.url, file)
            file.seek(0)
            encoding = response.headers.get("content-encoding", "")
            reader = SitemapReader(file, encoding, response.is_cut)
        except FetchError as error:
            visit.outcome, visit.detail = error.outcome, error.detail
            return
        except UnknownCodingError as error:
            visit.outcome, visit.detail = BAD_ENCODING, f"Content-Encoding: {error}"
            return
        n_addresses = 0
        for is_map, text in reader:
            address = canonical(text, response.url) if text.strip() else None
            if address is None:
                visit.pass_over(NO_ADDRESS)
            else:
                n_addresses += 1
                yield is_map, address
        visit.detail = reader.damage or ""
        if not n_addresses:
            visit.outcome = NO_MAP


def _say(found: SiteMaps, console: Console) -> None:
    """Say which maps were not read, or not to their end; that a site has none is nothing to speak of."""
    told = []
    for visit in found.visits:
        if visit.found_on is None and visit.outcome == "http_404":
            continue
        reason = "" if visit.outcome == MAP_READ else meaning(visit.outcome)
        ignored = ", ".join(f"{n:,} {name}" for name, n in visit.passed_over.items())
        parts = [reason, visit.detail, f"passed over: {ignored}" if ignored else ""]
        if any(parts):
            told.append(f"map {visit.url}: {'; '.join(part for part in parts if part)}")
    for line in told[:N_SAID]:
        console.warn(line)
    if len(told) > N_SAID:
        console.warn(f"and {len(told) - N_SAID:,} maps more; sitemaps.jsonl has them all")
