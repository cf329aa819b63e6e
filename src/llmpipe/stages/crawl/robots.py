"""What a host allows: its robots.txt, fetched as RFC 9309 says.

No robots.txt (status 400 to 499) allows everything; a server that fails (500 and above, or 429), or that sends what cannot be
read, forbids everything, because what it forbids cannot be known.
"""

from __future__ import annotations

import io
from dataclasses import dataclass

from llmpipe.core.http_message import UnknownCodingError, read_up_to, undo_codings
from llmpipe.stages.crawl.fetch import BodySink, FetchError
from llmpipe.stages.crawl.outcomes import ROBOTS_DISALLOWED, ROBOTS_UNAVAILABLE, UNREACHABLE
from llmpipe.stages.crawl.politeness import PoliteFetcher
from llmpipe.stages.crawl.robots_rules import RobotsRules, parse_robots
from llmpipe.stages.crawl.urls import canonical, origin

REDIRECT_STATUSES = (301, 302, 303, 307, 308)
MAX_REDIRECTS = 5  # RFC 9309 section 2.3.1.2
MAX_PARSED_BYTES = 500 * 1024  # RFC 9309 section 2.5: at least this much must be read
MAX_AGE_S = 24 * 3600.0  # RFC 9309 section 2.4: rules that are older are asked for again


@dataclass(frozen=True)
class Rules:
    """What one host allows one crawler."""

    robots: RobotsRules
    failure: FetchError | None = None
    """Why nothing may be fetched, if robots.txt could not be had."""

    def refusal(self, url: str) -> FetchError | None:
        """Return why an address may not be fetched, or None if it may."""
        if self.failure is not None:
            return self.failure
        if not self.robots.allows(url[len(origin(url)) :]):
            return FetchError(ROBOTS_DISALLOWED, "")
        return None


def load_rules(host: str, fetcher: PoliteFetcher, user_agent: str) -> Rules:
    """Fetch and read the robots.txt of a host (an origin: scheme, name and port)."""
    # RFC 9309 section 2.2.1: rules are for product tokens, `llmpipe` of `llmpipe/1 (+http…)`.
    product = user_agent.split()[0].split("/")[0]
    try:
        return Rules(parse_robots(_fetch(f"{host}/robots.txt", fetcher), product))
    except FetchError as error:
        # A host that cannot be reached is reported as that; it would not give pages either.
        outcome = UNREACHABLE if error.outcome == UNREACHABLE else ROBOTS_UNAVAILABLE
        return Rules(RobotsRules(), FetchError(outcome, f"robots.txt: {error.detail}"))


def _fetch(url: str, fetcher: PoliteFetcher) -> bytes:
    for _ in range(MAX_REDIRECTS + 1):
        body = io.BytesIO()
        response = fetcher.get(url, None, BodySink(body, MAX_PARSED_BYTES))
        if response.status in REDIRECT_STATUSES:
            target = canonical(response.location, url)
            if target is None:
                break
            url = target
            continue
        if response.status == 429 or response.status >= 500:
            raise FetchError(ROBOTS_UNAVAILABLE, f"status {response.status}")
        if not 200 <= response.status < 300:
            break
        return _content(body, response.headers.get("content-encoding", ""), response.is_cut)
    return b""  # none, or led on too often, which RFC 9309 treats as none


def _content(body: io.BytesIO, encoding: str, is_cut: bool) -> bytes:
    """Return the text as far as it is read, without a last line that was cut: half a rule is another rule."""
    body.seek(0)
    try:
        content, is_whole = read_up_to(undo_codings(body, encoding), MAX_PARSED_BYTES + 1)
    except UnknownCodingError as error:
        raise FetchError(ROBOTS_UNAVAILABLE, f"Content-Encoding: {error}") from None
    if not is_whole and not is_cut:
        raise FetchError(ROBOTS_UNAVAILABLE, "its compressed body is damaged")
    if is_cut or len(content) > MAX_PARSED_BYTES:
        return content[: max(content.rfind(b"\n"), content.rfind(b"\r")) + 1]
    return content
