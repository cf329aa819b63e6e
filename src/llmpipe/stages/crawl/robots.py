"""What a host allows: robots.txt, as RFC 9309 says it is to be read.

No robots.txt (status 400 to 499) allows everything; a server that fails (500 and above, or 429)
forbids everything, because what it forbids cannot be known.
"""

from __future__ import annotations

from dataclasses import dataclass

from protego import Protego

from llmpipe.stages.crawl.fetch import FetchError, Response
from llmpipe.stages.crawl.links import TooLargeError, decompress
from llmpipe.stages.crawl.outcomes import ROBOTS_DISALLOWED, ROBOTS_UNAVAILABLE, UNREACHABLE
from llmpipe.stages.crawl.politeness import PoliteFetcher
from llmpipe.stages.crawl.urls import canonical

REDIRECT_STATUSES = (301, 302, 303, 307, 308)
MAX_REDIRECTS = 5  # RFC 9309 section 2.3.1.2
MAX_PARSED_BYTES = 500 * 1024  # RFC 9309 section 2.5: at least this much must be read


@dataclass(frozen=True)
class Rules:
    """What one host allows one crawler."""

    robots: Protego
    user_agent: str
    failure: FetchError | None = None
    """Why nothing may be fetched, if robots.txt could not be had."""

    def refusal(self, url: str) -> FetchError | None:
        """Return why an address may not be fetched, or None if it may."""
        if self.failure is not None:
            return self.failure
        if not self.robots.can_fetch(url, self.user_agent):
            return FetchError(ROBOTS_DISALLOWED, "")
        return None

    @property
    def crawl_delay_s(self) -> float:
        """The pause between requests that the host asks for."""
        return self.robots.crawl_delay(self.user_agent) or 0.0


def load_rules(host: str, fetcher: PoliteFetcher, user_agent: str) -> Rules:
    """Fetch and read the robots.txt of a host (an origin: scheme, name and port)."""
    # RFC 9309 section 2.2.1: rules are for product tokens, `llmpipe` of `llmpipe/1 (+http…)`.
    token = user_agent.split("/")[0].split()[0]
    try:
        return Rules(Protego.parse(_fetch_text(f"{host}/robots.txt", fetcher)), token)
    except FetchError as error:
        # A host that cannot be reached is reported as that; it would not give pages either.
        outcome = UNREACHABLE if error.outcome == UNREACHABLE else ROBOTS_UNAVAILABLE
        failure = FetchError(outcome, f"robots.txt: {error.detail}")
        return Rules(Protego.parse(""), token, failure)


def _fetch_text(url: str, fetcher: PoliteFetcher) -> str:
    for _ in range(MAX_REDIRECTS + 1):
        response = fetcher.get(url)
        if response.status not in REDIRECT_STATUSES:
            return _text(response)
        target = canonical(response.headers.get("location", ""), url)
        if target is None:
            break
        url = target
    return ""  # led on too often: RFC 9309 treats that as having no robots.txt


def _text(response: Response) -> str:
    if response.status == 429 or response.status >= 500:
        raise FetchError(ROBOTS_UNAVAILABLE, f"status {response.status}")
    if not 200 <= response.status < 300:
        return ""
    encoding = response.headers.get("content-encoding", "")
    try:
        content = decompress(response.content, encoding, MAX_PARSED_BYTES)
    except TooLargeError:
        raise FetchError(ROBOTS_UNAVAILABLE, "too large") from None
    return (content or b"")[:MAX_PARSED_BYTES].decode("utf-8", errors="replace")
