"""The crawl stage: seeds in, WARC files and a list of every address out.

One request is open at a time, in a fixed order. A crawler of the whole web cannot work like this; one
of some sites is limited by what it may ask of them, not by how many connections it has.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from llmpipe.core.artifact import write_atomic
from llmpipe.core.console import format_bytes
from llmpipe.core.errors import InputError, UserError
from llmpipe.core.stage import Context, Inputs, StageSpec
from llmpipe.stages.crawl.config import CrawlConfig, Server
from llmpipe.stages.crawl.report import headline, report
from llmpipe.stages.crawl.urls import canonical


def run(config: CrawlConfig, inputs: Inputs, out: Path, ctx: Context) -> dict[str, Any]:
    """Crawl, or go on with the crawl that is in `out`.

    Raises:
        UserError: there is nothing to crawl.
        InputError: not one page could be fetched.
        Stopped: asked to stop; what was fetched is kept.
    """
    from llmpipe.stages.crawl.loop import crawl
    from llmpipe.stages.crawl.servers import started
    from llmpipe.stages.crawl.summary import count, count_maps, url_lines, what_was_tried

    seeds = seeds_of(config)
    with contextlib.ExitStack() as running:
        needed = servers_of(config, seeds)
        connect_to = {server.host: running.enter_context(started(server)) for server in needed}
        crawled = crawl(config, seeds, out, ctx, connect_to)
    if not crawled.days:
        # Kept, this would be taken for a finished crawl, and trying again would not try anything.
        shutil.rmtree(out / "warc")
        shutil.rmtree(out / "state")
        raise InputError(
            f"no page could be fetched; tried:\n{what_was_tried(crawled.visits)}",
            "check the addresses and the network; `crawl.scope` says which redirects are followed",
        )
    write_atomic(out / "urls.jsonl", url_lines(crawled.visits))
    n_warc_files = len(list((out / "warc").iterdir()))
    stats = count(crawled.visits, crawled.days[-1], n_warc_files)
    if config.sitemaps:
        write_atomic(out / "sitemaps.jsonl", crawled.sitemaps.lines())
        stats["sitemaps"] = count_maps(crawled.sitemaps)
    return stats


def seeds_of(config: CrawlConfig) -> list[str]:
    """Return the canonical addresses to start from.

    Raises:
        UserError: there are none.
    """
    seeds = [seed for seed in map(canonical, config.seeds) if seed is not None]
    if not seeds:
        raise UserError(
            "there is nothing to crawl: `crawl.seeds` is empty",
            "name addresses, `--set 'crawl.seeds=[\"https://example.org/\"]'`, or crawl what the demo does, "
            "`llmpipe crawl tiny`",
        )
    return seeds


def servers_of(config: CrawlConfig, seeds: Sequence[str]) -> list[Server]:
    """Return the servers to start: those on which a seed is."""
    hosts = {urlsplit(seed).hostname for seed in seeds}
    return [server for server in config.servers if server.host in hosts]


def plan(config: CrawlConfig, inputs: Inputs) -> dict[str, str]:
    """Say what a crawl would do, without a request."""
    seeds = seeds_of(config)
    ours = {server.host for server in config.servers}
    is_ours = all(urlsplit(seed).hostname in ours for seed in seeds)
    delay = "no pause" if is_ours else f"{config.delay_s:g} s between two requests"
    return {
        "seeds": ", ".join(seeds),
        "follows": f"links {config.max_depth} deep, same {config.scope}",
        "asks as": f"{config.user_agent}, {delay}, robots.txt obeyed",
        "stops at": f"{config.max_pages:,} pages"
        + (f" or {config.max_seconds:g} s" if config.max_seconds else ""),
        "page limit": format_bytes(config.max_page_bytes),
    }


SPEC = StageSpec(
    name="crawl",
    version=3,
    summary="Seed URLs -> WARC files, politely",
    config=CrawlConfig,
    folder="crawl",
    writes="crawl",
    run=run,
    headline=headline,
    report=report,
    plan=plan,
    examples=(
        "llmpipe crawl tiny",
        "llmpipe crawl --set 'crawl.seeds=[\"https://example.org/\"]' --dry-run",
    ),
)
