"""One address at a time: may it be fetched, what came, what does it link to."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from llmpipe.stages.crawl.config import CrawlConfig
from llmpipe.stages.crawl.fetch import FetchError, Response
from llmpipe.stages.crawl.frontier import Target, Visit
from llmpipe.stages.crawl.links import Links, TooLargeError, decompress, extract_links
from llmpipe.stages.crawl.outcomes import (
    FETCHED,
    REDIRECT,
    REDIRECT_LIMIT,
    REDIRECT_LOOP,
    TOO_LARGE,
    http_error,
)
from llmpipe.stages.crawl.politeness import PoliteFetcher
from llmpipe.stages.crawl.robots import REDIRECT_STATUSES, Rules, load_rules
from llmpipe.stages.crawl.urls import canonical, origin


@dataclass(frozen=True)
class Result:
    """What a visit brought."""

    visit: Visit
    response: Response | None = None
    """What to store: a page, a redirect, or an error page. None if nothing worth storing came."""
    links: tuple[str, ...] = ()


class Crawler:
    """Visits addresses.

    Args:
        unhurried: origins that need no pause between requests, unless their robots.txt wants one.
    """

    def __init__(
        self, config: CrawlConfig, fetcher: PoliteFetcher, unhurried: frozenset[str] = frozenset()
    ) -> None:
        self._config = config
        self._fetcher = fetcher
        self._unhurried = unhurried
        self._rules: dict[str, Rules] = {}
        for host in unhurried:
            fetcher.set_delay(host, 0)

    def visit(self, target: Target, wants_links: bool) -> Result:
        """Fetch an address if that is allowed, and say what became of it."""
        try:
            self._ask_permission(target.url)
            response = self._fetcher.get(target.url, self._config.content_types)
            content = self._decompressed(response)
        except FetchError as error:
            visit = _visit(target, error.outcome, detail=error.detail)
            return Result(dataclasses.replace(visit, content_type=error.content_type))
        location = response.headers.get("location")
        if response.status in REDIRECT_STATUSES and location:
            goal = canonical(location, target.url)
            if goal is not None:
                return Result(self._redirect(target, response, goal), response)
        if not 200 <= response.status < 300:
            return Result(_visit(target, http_error(response.status), response), response)
        links = Links()
        if content and (wants_links or self._config.canonical_urls):
            links = extract_links(content, response.charset, target.url)
        visit = _visit(target, FETCHED, response)
        if self._config.canonical_urls and links.canonical not in (None, target.url):
            visit = dataclasses.replace(visit, canonical=links.canonical)
        return Result(visit, response, links.anchors if wants_links else ())

    @property
    def max_bytes(self) -> int:
        """The limit of a body."""
        return self._config.max_page_bytes

    def sitemaps_of(self, host: str) -> list[str]:
        """Return where an origin's maps are: as its robots.txt says, or at the usual place."""
        try:
            self._ask_permission(f"{host}/")
        except FetchError:
            if host not in self._rules:
                return []
        named = [canonical(url, f"{host}/") for url in self._rules[host].robots.sitemaps]
        return [url for url in named if url is not None] or [f"{host}/sitemap.xml"]

    def fetch_sitemap(self, url: str) -> bytes:
        """Fetch a map, if that is allowed.

        Raises:
            FetchError: it may not be fetched, or there is none.
        """
        self._ask_permission(url)
        response = self._fetcher.get(url)
        if not 200 <= response.status < 300:
            raise FetchError(http_error(response.status), "")
        return self._decompressed(response) or b""

    def _ask_permission(self, url: str) -> None:
        """Read the host's robots.txt if it was not read yet, and keep to it.

        Raises:
            FetchError: the address may not be fetched.
        """
        host = origin(url)
        if host not in self._rules:
            rules = load_rules(host, self._fetcher, self._config.user_agent)
            usual = 0 if host in self._unhurried else self._config.delay_s
            self._fetcher.set_delay(host, max(usual, rules.crawl_delay_s))
            self._rules[host] = rules
        if refusal := self._rules[host].refusal(url):
            raise refusal

    def _decompressed(self, response: Response) -> bytes | None:
        encoding = response.headers.get("content-encoding", "")
        try:
            return decompress(response.content, encoding, self._config.max_page_bytes)
        except TooLargeError:
            limit = self._config.max_page_bytes
            raise FetchError(TOO_LARGE, f"more than {limit} bytes when decompressed") from None

    def _redirect(self, target: Target, response: Response, goal: str) -> Visit:
        if goal in (*target.chain, target.url):
            outcome = REDIRECT_LOOP
        elif len(target.chain) >= self._config.max_redirects:
            outcome = REDIRECT_LIMIT
        else:
            outcome = REDIRECT
        return _visit(target, outcome, response, redirects_to=goal)


def _visit(
    target: Target,
    outcome: str,
    response: Response | None = None,
    redirects_to: str | None = None,
    detail: str = "",
) -> Visit:
    return Visit(
        url=target.url,
        depth=target.depth,
        found_on=target.found_on,
        outcome=outcome,
        status=response.status if response else None,
        n_bytes=len(response.content) if response else 0,
        content_type=response.content_type if response else "",
        redirects_to=redirects_to,
        detail=detail,
    )
