"""From visits to numbers: the statistics of a crawl, and its list of addresses."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from llmpipe.stages.crawl.frontier import Visit
from llmpipe.stages.crawl.outcomes import FETCHED, meaning
from llmpipe.stages.crawl.sitemaps import SiteMaps

N_LARGEST = 10


def count(visits: Sequence[Visit], crawled_on: str, n_warc_files: int) -> dict[str, Any]:
    """Return the numbers for the manifest.

    Args:
        visits: what became of every address.
        crawled_on: the day of the last page, as YYYY-MM-DD.
        n_warc_files: how many files hold the pages.
    """
    pages = [visit for visit in visits if visit.outcome == FETCHED]
    largest = sorted(pages, key=lambda page: (-page.n_bytes, page.url))[:N_LARGEST]
    depths = []
    for depth in sorted({page.depth for page in pages}):
        sizes = [page.n_bytes for page in pages if page.depth == depth]
        depths.append({"depth": depth, "pages": len(sizes), "bytes": sum(sizes)})
    return {
        "pages": len(pages),
        "bytes": sum(page.n_bytes for page in pages),
        "urls": len(visits),
        "outcomes": _by_count(visit.outcome for visit in visits),
        "content_types": _by_count(visit.content_type for visit in visits if visit.content_type),
        "depths": depths,
        "largest": [{"url": page.url, "bytes": page.n_bytes} for page in largest],
        "warc_files": n_warc_files,
        "crawled_on": crawled_on,
    }


def count_maps(maps: SiteMaps) -> dict[str, Any]:
    """Return the numbers of the sites' maps for the manifest: maps by outcome, entries taken, and those passed over."""
    passed_over: Counter[str] = Counter()
    for visit in maps.visits:
        passed_over.update(visit.passed_over)
    return {
        "maps": _by_count(visit.outcome for visit in maps.visits),
        "addresses": len(maps.addresses),
        "passed_over": dict(passed_over),
    }


def _by_count(names: Iterable[str]) -> dict[str, int]:
    """Count names, the most frequent first, equals in the order of the alphabet."""
    counts = Counter(names)
    return {name: counts[name] for name in sorted(counts, key=lambda name: (-counts[name], name))}


def url_lines(visits: Iterable[Visit]) -> str:
    """Return one line of JSON for each address, in the order in which they were dealt with."""
    lines = []
    for visit in visits:
        fields = {
            "url": visit.url,
            "depth": visit.depth,
            "outcome": visit.outcome,
            "status": visit.status,
            "bytes": visit.n_bytes,
            "content_type": visit.content_type,
            "from": visit.found_on,
            "redirects_to": visit.redirects_to,
            "detail": visit.detail,
        }
        lines.append(json.dumps(fields, ensure_ascii=False) + "\n")
    return "".join(lines)


def what_was_tried(visits: Iterable[Visit], n_shown: int = 5) -> str:
    """Say what became of the first addresses, one line each, for an error message."""
    visits = list(visits)
    lines = []
    for visit in visits[:n_shown]:
        detail = f" ({visit.detail})" if visit.detail else ""
        goal = f" to {visit.redirects_to}" if visit.redirects_to else ""
        lines.append(f"    {visit.url}: {meaning(visit.outcome)}{goal}{detail}")
    if len(visits) > n_shown:
        lines.append(f"    and {len(visits) - n_shown} more")
    return "\n".join(lines)
