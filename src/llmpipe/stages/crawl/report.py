"""What a crawl found, as report sections."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llmpipe.core.artifact import Artifact
from llmpipe.core.console import format_bytes
from llmpipe.core.report import Bars, Prose, Section, Table
from llmpipe.stages.crawl.outcomes import meaning


def headline(stats: Mapping[str, Any]) -> str:
    """Return the crawl in one line."""
    pages = "1 page" if stats["pages"] == 1 else f"{stats['pages']:,} pages"
    return f"{pages}, {format_bytes(stats['bytes'])}"


def report(artifact: Artifact) -> list[Section]:
    """Describe a crawl: what became of every address, and what the pages are."""
    stats = artifact.stats
    config = artifact.config
    seeds = [f"`{seed}`" for seed in config["seeds"]]
    agent = config["user_agent"]
    intro = (
        f"{headline(stats)}, fetched on {stats['crawled_on']} as `{agent}` from {', '.join(seeds)}; "
        f"links were followed {config['max_depth']} deep."
    )
    outcomes = [[name, meaning(name), n] for name, n in stats["outcomes"].items()]
    types = [[name, n] for name, n in stats["content_types"].items()]
    depths = [(f"depth {row['depth']}", round(row["bytes"] / 1e6, 2)) for row in stats["depths"]]
    maps = stats.get("sitemaps", {"maps": {}, "passed_over": {}})
    told = [["maps", meaning(name), n] for name, n in maps["maps"].items()]
    told += [["entries passed over", name, n] for name, n in maps["passed_over"].items()]
    about_maps = [Table(["of the sites' maps", "outcome", "number"], told)] if told else []
    largest = [[row["url"], format_bytes(row["bytes"])] for row in stats["largest"]]
    return [
        Section(
            "Crawl",
            [
                Prose(intro),
                Table(["outcome", "meaning", "addresses"], outcomes),
                *about_maps,
                Table(["content type", "responses"], types),
                Bars("Size of the pages by depth", depths, "MB"),
                Table(["largest pages", "size"], largest),
            ],
        )
    ]
