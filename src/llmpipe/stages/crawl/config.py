"""Settings of the crawl: where it starts, how far it goes, how politely, and how it is stored."""

from __future__ import annotations

from typing import Annotated, Literal

from annotated_types import Ge, Gt, Le, MinLen

from llmpipe.core.config import schema
from llmpipe.stages.crawl.urls import canonical

# RFC 9309, "Robots Exclusion Protocol", is the source of everything about robots.txt.


@schema
class Server:
    """A server of our own, crawled under a fixed name that only the crawl resolves.

    Its port is another one each time, and addresses that change with it could not be resumed nor compared.
    """

    host: str
    """Its name in addresses, best one that ends in `.localhost`, which means this machine (RFC 6761, section 6.3)."""
    command: Annotated[tuple[str, ...], MinLen(1)]
    """What starts it; `python` is the Python that runs llmpipe. It serves HTTP on 127.0.0.1, prints its port on a line, and ends when
    its standard input does. It sees nothing of our environment."""


@schema
class CrawlConfig:
    """How to crawl. The defaults suit a stranger's web site: one request at a time, one per second."""

    seeds: tuple[str, ...] = ()
    """The `http` or `https` addresses to start from."""
    servers: tuple[Server, ...] = ()
    """Servers of seeds that are started here for the crawl, on loopback: real pages, no network. Nothing is waited for between their
    pages, whatever `delay_s` says."""

    scope: Literal["host", "prefix"] = "host"
    """`host`: stay on the hosts of the seeds. `prefix`: stay below the folders of the seeds."""
    max_depth: Annotated[int, Ge(0)] = 1
    """Links to follow from a seed: 0 fetches the seeds alone. Redirects do not count, nor do frames, which are parts of a page."""
    max_pages: Annotated[int, Gt(0)] = 10_000
    """Stop after this many pages."""
    max_seconds: Annotated[float, Gt(0)] | None = None
    """Stop after this many seconds, looked at between pages. Time before a resume counts."""
    sitemaps: bool = False
    """Also visit the addresses in the sites' maps (sitemaps.org), as if the seeds linked to them: those that robots.txt names, else
    `/sitemap.xml`. XML, feeds and lists are read, up to 50 MB each; `sitemaps.jsonl` says what became of every one."""
    canonical_urls: bool = False
    """Store a page once if several addresses name the same one as theirs with `<link rel="canonical">`. Off, because there are sites
    whose every page names the front page."""
    content_types: Annotated[tuple[str, ...], MinLen(1)] = ("text/html", "application/xhtml+xml")
    """What is a page. Anything else is counted and not stored."""

    user_agent: Annotated[str, MinLen(1)] = "llmpipe"
    """Who we say we are; robots.txt rules are looked up under its first word. On other people's
    sites add an address where you can be reached: `llmpipe (+https://example.org/contact)`."""
    delay_s: Annotated[float, Ge(0)] = 1.0
    """Least time between two requests to a host; robots.txt can only make it longer. One second is
    what this project holds for polite when only one request is open at a time."""
    max_delay_s: Annotated[float, Gt(0)] = 30.0
    """Give up on a page when its host asks for a longer pause than this, by `Crawl-delay` or
    `Retry-After`. Source: Apache Nutch, `fetcher.max.crawl.delay`."""
    timeout_s: Annotated[float, Gt(0)] = 30.0
    """Time for one request, from connecting to the last byte."""
    retries: Annotated[int, Ge(0), Le(10)] = 2
    """Further attempts after a connection error, a status of 500 and above, or 429."""
    backoff_s: Annotated[float, Ge(0)] = 1.0
    """Pause before the first further attempt; it doubles with each."""
    max_redirects: Annotated[int, Ge(0)] = 5
    """Redirects, and frames in frames, to follow in a row. Source: RFC 9309 section 2.3.1.2 names five for robots.txt."""

    max_page_bytes: Annotated[int, Gt(0)] = 5 * 2**20
    """Larger pages are counted and not stored; the limit holds as sent and after decompression.
    Source: Common Crawl's limit, planned for 2025 (sebastian-nagel/cc-notebooks-var, "Truncated
    Records 2025"); it was 1 MiB before."""
    max_warc_bytes: Annotated[int, Gt(0)] = 10**9
    """Start a new WARC file when one is larger. Source: ISO 28500:2017 (WARC 1.1), annex C.1,
    recommends one gigabyte."""

    def __post_init__(self) -> None:
        """Check what the types cannot say.

        Raises:
            ValueError: a seed is no address, or the user agent cannot stand in a header.
        """
        agent = self.user_agent
        if not (agent.strip() and agent.isascii() and agent.isprintable()):
            raise ValueError("user_agent: must be a line of printable ASCII")
        for seed in self.seeds:
            if canonical(seed) is None:
                raise ValueError(f"seeds: `{seed}` is no http or https address")
