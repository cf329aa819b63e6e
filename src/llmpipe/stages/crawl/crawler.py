"""One address at a time: may it be fetched, what came, what does it link to."""

from __future__ import annotations

import dataclasses
import time
from dataclasses import dataclass
from typing import BinaryIO

from llmpipe.core.http_message import UnknownCodingError, decode_body
from llmpipe.stages.crawl.config import CrawlConfig
from llmpipe.stages.crawl.fetch import BodySink, FetchError, Response
from llmpipe.stages.crawl.frontier import Target, Visit
from llmpipe.stages.crawl.links import extract_links
from llmpipe.stages.crawl.outcomes import (
    BAD_ENCODING,
    FETCHED,
    REDIRECT,
    REDIRECT_LIMIT,
    REDIRECT_LOOP,
    TOO_LARGE,
    http_error,
)
from llmpipe.stages.crawl.politeness import PoliteFetcher
from llmpipe.stages.crawl.robots import MAX_AGE_S, REDIRECT_STATUSES, Rules, load_rules
from llmpipe.stages.crawl.sitemap_reader import MAX_MAP_BYTES
from llmpipe.stages.crawl.urls import canonical, origin


@dataclass(frozen=True)
class Result:
    """What a visit brought."""

    visit: Visit
    response: Response | None = None
    """What to store: a page, a redirect, or an error page. None if nothing worth storing came."""
    links: tuple[str, ...] = ()
    parts: tuple[str, ...] = ()
    """Frames of the page and where it sends its reader on to: shown without a click, so as deep as the page itself."""


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
        self._rules: dict[str, tuple[Rules, float]] = {}
        for host in unhurried:
            fetcher.set_delay(host, 0)

    def visit(self, target: Target, wants_links: bool) -> Result:
        """Fetch an address if that is allowed, and say what became of it."""
        try:
            self._ask_permission(target.url)
            response = self._fetcher.get(target.url, self._config.content_types)
            if 200 <= response.status < 300:
                return self._page(target, response, wants_links)
        except FetchError as error:
            visit = _visit(target, error.outcome, detail=error.detail)
            return Result(dataclasses.replace(visit, content_type=error.content_type))
        if response.status in REDIRECT_STATUSES and response.location:
            goal = canonical(response.location, target.url)
            if goal is not None:
                return Result(self._redirect(target, response, goal), response)
        return Result(_visit(target, http_error(response.status), response), response)

    def _page(self, target: Target, response: Response, wants_links: bool) -> Result:
        """Look for links in a page.

        Raises:
            FetchError: it cannot be read, or is too large.
        """
        content, detail = self._content(response)
        refresh = response.headers.get("refresh", "")
        links = extract_links(content, response.charset, target.url, refresh)
        visit = _visit(target, FETCHED, response, detail=detail)
        if self._config.canonical_urls and links.canonical not in (None, target.url):
            visit = dataclasses.replace(visit, canonical=links.canonical)
        parts, n_before = links.parts, len(target.chain)
        if parts and n_before >= self._config.max_redirects:
            left = f"not followed from here: {len(parts)} frames or refreshes, after {n_before} in a row"
            visit = dataclasses.replace(visit, detail=f"{detail}; {left}" if detail else left)
            parts = ()
        return Result(visit, response, links.anchors if wants_links else (), parts)

    def sitemaps_of(self, host: str) -> list[tuple[str, str | None]]:
        """Return where an origin's maps are, and who says so: its robots.txt, or nobody and they are at the usual place.

        What its robots.txt names may be no address.
        """
        robots_txt = f"{host}/robots.txt"
        named = [canonical(url, robots_txt) or url for url in self._rules_of(host).robots.sitemaps]
        return [(url, robots_txt) for url in named] or [(f"{host}/sitemap.xml", None)]

    def fetch_sitemap(self, url: str, file: BinaryIO) -> Response:
        """Fetch a map into a file, as far as it leads on and is allowed.

        Raises:
            FetchError: it may not be fetched, or there is none.
        """
        for _ in range(self._config.max_redirects + 1):
            self._ask_permission(url)
            response = self._fetcher.get(url, None, BodySink(file, MAX_MAP_BYTES))
            goal = None
            if response.status in REDIRECT_STATUSES and response.location:
                goal = canonical(response.location, url)
            if goal is None:
                if 200 <= response.status < 300:
                    return response
                raise FetchError(http_error(response.status), "")
            url = goal
        raise FetchError(REDIRECT_LIMIT, "")

    def _ask_permission(self, url: str) -> None:
        """Keep to the robots.txt of the host.

        Raises:
            FetchError: the address may not be fetched.
        """
        if refusal := self._rules_of(origin(url)).refusal(url):
            raise refusal

    def _rules_of(self, host: str) -> Rules:
        """Return what a host allows, from its robots.txt, which is read anew when it is a day old."""
        rules, read_at = self._rules.get(host, (None, 0.0))
        if rules is None or time.monotonic() - read_at > MAX_AGE_S:
            rules = load_rules(host, self._fetcher, self._config.user_agent)
            usual = 0 if host in self._unhurried else self._config.delay_s
            self._fetcher.set_delay(host, max(usual, rules.robots.crawl_delay_s))
            self._rules[host] = rules, time.monotonic()
        return rules

    def _content(self, response: Response) -> tuple[bytes, str]:
        """Undo the codings of a page, and say what of it is missing.

        Raises:
            FetchError: it is too large, or nothing of it can be read.
        """
        encoding = response.headers.get("content-encoding", "")
        limit = self._config.max_page_bytes
        try:
            content, is_whole = decode_body(response.content, encoding, limit)
        except UnknownCodingError as error:
            raise FetchError(BAD_ENCODING, f"Content-Encoding: {error}") from None
        if len(content) > limit:
            raise FetchError(TOO_LARGE, f"more than {limit} bytes when decompressed")
        if is_whole:
            return content, ""
        if not content:
            raise FetchError(BAD_ENCODING, f"damaged from the start, Content-Encoding: {encoding}")
        return content, f"its compressed body is damaged after {len(content)} bytes"

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
