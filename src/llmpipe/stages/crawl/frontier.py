"""What is known, what comes next, what became of it: the crawl without the network.

Breadth first: addresses are visited in the order in which they were found, so that the same pages
give the same crawl. A redirect's target, and what is in the frames of a page, is visited next, at the depth of the address that
led there.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from llmpipe.stages.crawl.outcomes import FETCHED, OUT_OF_SCOPE, REDIRECT
from llmpipe.stages.crawl.urls import Scope


@dataclass(frozen=True)
class Target:
    """An address to visit."""

    url: str
    depth: int
    found_on: str | None
    """The page that links or redirects here; None for a seed."""
    chain: tuple[str, ...] = ()
    """The redirects and frames that led here in a row."""


@dataclass(frozen=True)
class Visit:
    """What became of an address."""

    url: str
    depth: int
    found_on: str | None
    outcome: str
    status: int | None = None
    n_bytes: int = 0
    """Size of the body as sent."""
    content_type: str = ""
    redirects_to: str | None = None
    detail: str = ""
    canonical: str | None = None
    """The address that the page itself gives as its own, where that is another one of this crawl."""


class Frontier:
    """Addresses to visit, in order, and all that were ever seen."""

    def __init__(self, seeds: Sequence[str], scope: Scope, max_depth: int) -> None:
        self._scope = scope
        self._max_depth = max_depth
        self._queue: deque[Target] = deque()
        self.seen: set[str] = set()
        self.visits: list[Visit] = []
        self._stored: set[str] = set()
        self.n_pages = 0
        self.n_bytes = 0
        for seed in seeds:
            if seed not in self.seen:
                self.seen.add(seed)
                self._queue.append(Target(seed, 0, None))

    def add_mapped(self, url: str, sitemap: str) -> None:
        """Take in an address from a map, one step from the seeds."""
        if self._max_depth >= 1:
            self._admit(Target(url, 1, sitemap))

    def __len__(self) -> int:
        """Return how many addresses wait."""
        return len(self._queue)

    def next(self) -> Target | None:
        """Return the address to visit now; it stays first until `finish` is told about it."""
        return self._queue[0] if self._queue else None

    def wants_links(self, target: Target) -> bool:
        """Tell whether links on a page are followed, or the page is as deep as the crawl goes."""
        return target.depth < self._max_depth

    def is_stored(self, url: str | None) -> bool:
        """Tell whether a page was stored under this address, or named it as its own."""
        return url is not None and url in self._stored

    def holds(self, url: str) -> bool:
        """Tell whether an address belongs to the crawl."""
        return self._scope.holds(url)

    def finish(self, visit: Visit, links: Iterable[str], parts: Sequence[str] = ()) -> None:
        """Note what became of the first address, and take in the links found there, and the parts of the page."""
        target = self._queue.popleft()
        assert target.url == visit.url, "visits are finished in order"
        self._note(visit)
        if visit.outcome == REDIRECT and visit.redirects_to is not None:
            chain = (*target.chain, target.url)
            self._admit(Target(visit.redirects_to, target.depth, target.url, chain), next_up=True)
        for part in reversed(parts):  # each is put before the others
            chain = (*target.chain, target.url)
            self._admit(Target(part, target.depth, target.url, chain), next_up=True)
        for link in links:
            self._admit(Target(link, target.depth + 1, target.url))

    def abandon(self, outcome: str) -> None:
        """Count all that still waits as not visited."""
        while self._queue:
            target = self._queue.popleft()
            self._note(Visit(target.url, target.depth, target.found_on, outcome))

    def _admit(self, target: Target, next_up: bool = False) -> None:
        if target.url in self.seen:
            return
        self.seen.add(target.url)
        if not self._scope.holds(target.url):
            self._note(Visit(target.url, target.depth, target.found_on, OUT_OF_SCOPE))
        elif next_up:
            self._queue.appendleft(target)
        else:
            self._queue.append(target)

    def _note(self, visit: Visit) -> None:
        self.visits.append(visit)
        if visit.outcome == FETCHED:
            self._stored.add(visit.url)
            if visit.canonical is not None:  # it is stored under another name: no need to go there
                self._stored.add(visit.canonical)
                self.seen.add(visit.canonical)
            self.n_pages += 1
            self.n_bytes += visit.n_bytes
