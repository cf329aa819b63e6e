"""The crawl itself: take the next address, visit it, store what came, note it down, go on."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from llmpipe.core.console import format_bytes
from llmpipe.core.stage import Context
from llmpipe.stages.crawl.address_guard import AddressGuard
from llmpipe.stages.crawl.config import CrawlConfig
from llmpipe.stages.crawl.crawler import Crawler, Result
from llmpipe.stages.crawl.fetch import Fetcher
from llmpipe.stages.crawl.frontier import Frontier, Visit
from llmpipe.stages.crawl.journal import Entry, Journal
from llmpipe.stages.crawl.outcomes import ALIAS, FETCHED, PAGE_LIMIT, TIME_LIMIT
from llmpipe.stages.crawl.politeness import PoliteFetcher
from llmpipe.stages.crawl.sitemaps import SiteMaps, read_sitemaps
from llmpipe.stages.crawl.urls import Scope, origin
from llmpipe.stages.crawl.warc import (
    Position,
    Stored,
    WarcFolder,
    about_crawl,
    last_whole_position,
    payload_digest,
)

# A page would cost two fsyncs, a few milliseconds each. A power cut may lose the pages of this many
# seconds instead, which are then fetched again; a killed process loses none.
SYNC_EVERY_S = 5.0


@dataclass(frozen=True)
class Crawled:
    """A finished crawl."""

    visits: Sequence[Visit]
    days: Sequence[str]
    """The day of every page, as YYYY-MM-DD."""
    sitemaps: SiteMaps


def crawl(
    config: CrawlConfig,
    seeds: Sequence[str],
    out: Path,
    ctx: Context,
    connect_to: Mapping[str, tuple[str, int]],
) -> Crawled:
    """Crawl from the seeds, or go on from where the journal in `out` ends.

    Args:
        config: limits and manners.
        seeds: canonical addresses.
        out: gets `warc/` and `state/journal.jsonl`.
        ctx: console and stop flag.
        connect_to: host name -> (address, port) of servers that no name service knows.

    Raises:
        Stopped: asked to stop; what was fetched is kept.
    """
    # ---- setup ---------------------------------------------------------------------------------
    journal_path = out / "state" / "journal.jsonl"
    fetcher = Fetcher(
        config.user_agent,
        config.timeout_s,
        config.max_page_bytes,
        connect_to,
        may_connect=AddressGuard(seeds).allows,
    )
    polite = PoliteFetcher(
        fetcher,
        delay_s=config.delay_s,
        max_delay_s=config.max_delay_s,
        retries=config.retries,
        backoff_s=config.backoff_s,
        check_stop=ctx.stop.check,
    )
    ours = frozenset(origin(f"http://{host}/") for host in connect_to)
    crawler = Crawler(config, polite, unhurried=ours)
    scope = Scope(config.scope, seeds)
    frontier = Frontier(seeds, scope, config.max_depth)
    sitemaps = SiteMaps()
    if config.sitemaps:
        sitemaps = read_sitemaps(
            seeds, crawler, out / "state", scope.holds, config.max_pages, ctx.console
        )
    for url, found_on in sitemaps.addresses.items():
        frontier.add_mapped(url, found_on)
    entries = _restore(frontier, journal_path, out / "warc")
    days = [entry.date for entry in entries if entry.visit.outcome == FETCHED]
    bodies = {
        entry.stored.digest: entry.stored
        for entry in reversed(entries)
        if entry.stored is not None and _is_page(entry.visit)
    }
    position = entries[-1].position if entries else Position(0, 0)
    started = time.monotonic() - (entries[-1].elapsed_s if entries else 0)
    last_sync = time.monotonic()
    about = about_crawl(config.user_agent)

    with (
        contextlib.closing(fetcher),
        contextlib.closing(
            WarcFolder(out / "warc", position, config.max_warc_bytes, about)
        ) as warc,
        contextlib.closing(Journal(journal_path)) as journal,
        ctx.console.progress("crawl", None, "pages") as progress,
    ):
        # ---- one address after the other -------------------------------------------------------
        while (target := frontier.next()) is not None:
            ctx.stop.check()
            elapsed_s = time.monotonic() - started
            if frontier.n_pages >= config.max_pages:
                frontier.abandon(PAGE_LIMIT)
                break
            if config.max_seconds is not None and elapsed_s >= config.max_seconds:
                frontier.abandon(TIME_LIMIT)
                break

            if frontier.is_stored(
                target.url
            ):  # a page found meanwhile gave this address as its own
                alias = Visit(target.url, target.depth, target.found_on, ALIAS)
                result = Result(alias)
            else:
                result = crawler.visit(target, frontier.wants_links(target))
            visit, stored = _store(result, frontier, warc, bodies)
            new_links = tuple(link for link in result.links if link not in frontier.seen)
            parts = tuple(part for part in result.parts if part not in frontier.seen)
            today = datetime.now(UTC).date().isoformat()
            elapsed_s = time.monotonic() - started
            journal.append(Entry(visit, new_links, warc.position, elapsed_s, today, stored, parts))
            frontier.finish(visit, new_links, parts)
            if visit.outcome == FETCHED:
                days.append(today)

            if time.monotonic() - last_sync >= SYNC_EVERY_S:
                warc.sync()
                journal.sync()
                last_sync = time.monotonic()
            waiting = f"{format_bytes(frontier.n_bytes)}, {len(frontier):,} waiting"
            progress.update(frontier.n_pages, waiting)
    return Crawled(frontier.visits, days, sitemaps)


def _store(
    result: Result, frontier: Frontier, warc: WarcFolder, bodies: dict[str, Stored]
) -> tuple[Visit, Stored | None]:
    """Write what a visit brought, unless it is a page that is stored under another address.

    Args:
        result: of the visit.
        frontier: knows which addresses are stored.
        warc: where it goes.
        bodies: stored pages by digest; a body that comes again is not stored again.
    """
    visit = result.visit
    if visit.canonical is not None and not frontier.holds(visit.canonical):
        visit = dataclasses.replace(visit, canonical=None)
    if visit.outcome == FETCHED and frontier.is_stored(visit.canonical):
        return dataclasses.replace(visit, outcome=ALIAS), None
    if result.response is None:
        return visit, None
    same = bodies.get(payload_digest(result.response.body)) if _is_page(visit) else None
    stored = warc.write(result.response, same)
    if _is_page(visit):
        bodies.setdefault(stored.digest, stored)
    return visit, stored


def _is_page(visit: Visit) -> bool:
    return visit.outcome == FETCHED and visit.n_bytes > 0


def _restore(frontier: Frontier, journal_path: Path, warc_folder: Path) -> list[Entry]:
    """Replay what an earlier attempt finished, and reduce its journal to that."""
    end = last_whole_position(warc_folder)
    entries = [entry for entry in Journal.read(journal_path) if entry.position <= end]
    for entry in entries:
        frontier.finish(entry.visit, entry.links, entry.parts)
    if entries:
        Journal.rewrite(journal_path, entries)
    else:
        journal_path.unlink(missing_ok=True)
    return entries
