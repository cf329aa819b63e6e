"""The report of a corpus: funnel, reasons with examples, languages, lengths, domains, personal data, clusters."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llmpipe.core.artifact import Artifact
from llmpipe.core.records.lines import read_objects
from llmpipe.core.report import Bars, Block, Code, Prose, Section, Table

_EXAMPLE_CHARS = 400


def report(artifact: Artifact) -> list[Section]:
    """Describe a finished corpus."""
    stats = artifact.stats
    examples = _lines(artifact.file("examples.jsonl"))
    sections = [
        _summary(stats),
        Section("What each step dropped", _funnel(stats)),
        Section("Why, with an example", _reasons(stats, examples)),
        Section("What was kept", _kept(stats)),
    ]
    if stats["unreadable"] or stats["other_records"]:
        sections.append(Section("What was not read", _unread(stats)))
    if stats["clusters"]:
        largest = _lines(artifact.file("clusters.jsonl"))
        sections.append(Section("Duplicates", [*_clusters(stats), *_largest(largest)]))
    return sections


def _lines(path: Path) -> list[dict[str, Any]]:
    if not path.is_file():
        return []
    return read_objects(path)


def _summary(stats: Mapping[str, Any]) -> Section:
    rows: list[list[str | int | float]] = [
        ["documents in", stats["documents_in"]],
        ["kept", stats["documents"]],
        ["dropped", stats["dropped"]],
        ["unreadable", stats["unreadable"]],
        ["words kept", stats["words"]],
        ["bytes of text kept", stats["text_bytes"]],
        ["input files", stats["input_files"]],
        ["latest page", stats["crawled_on"] or "unknown"],
    ]
    return Section("Corpus", [Table(["", ""], rows)])


def _funnel(stats: Mapping[str, Any]) -> list[Block]:
    funnel = stats["funnel"]
    rows: list[list[str | int | float]] = [
        [
            row["step"],
            row["in"],
            row["in"] - row["out"],
            row["out"],
            _percent(row["out"], stats["documents_in"]),
        ]
        for row in funnel
    ]
    seconds = stats.get("cpu_s", {})
    blocks: list[Block] = [
        Bars(
            "Documents left after each step",
            [(row["step"], row["out"]) for row in funnel],
            "documents",
        ),
        Table(["step", "in", "dropped", "left", "of all"], rows),
    ]
    if seconds:
        shares = sorted(seconds.items(), key=lambda item: -item[1])
        blocks.append(Bars("CPU time by step", shares, "s"))
        speeds = [
            (row["step"], row["in"] / seconds[row["step"]])
            for row in funnel
            if seconds.get(row["step"], 0) > 0
        ]
        blocks.append(Bars("Throughput of each step", speeds, "documents per CPU second"))
    return blocks


def _reasons(stats: Mapping[str, Any], examples: list[dict[str, Any]]) -> list[Block]:
    first: dict[tuple[str, str], dict[str, Any]] = {}
    for example in examples:
        first.setdefault((example["step"] or "read", example["reason"]), example)
    blocks: list[Block] = []
    rows: list[list[str | int | float]] = []
    for row in stats["funnel"]:
        for reason, count in row["dropped"].items():
            case = first.get((row["step"], reason.removeprefix("unreadable: ")))
            rows.append([row["step"], reason, count, _bound(case)])
            if case and case["excerpt"]:
                blocks += _side_by_side(f"{row['step']}, {reason}", case)
    if not rows:
        return [Prose("Nothing was dropped.")]
    return [Table(["step", "reason", "documents", "first case"], rows), *blocks]


def _side_by_side(title: str, case: Mapping[str, Any]) -> list[Block]:
    """An example of a reason: what was extracted beside the page's HTML."""
    text, page = case["excerpt"][:_EXAMPLE_CHARS], case.get("page", "")[:_EXAMPLE_CHARS]
    caption = f"{title}: {case['url'] or case['id']}"
    if not page:
        return [Code(text, caption)]
    return [Table([caption, "the page's HTML"], [[text, page]])]


def _bound(example: Mapping[str, Any] | None) -> str:
    if not example or not example["value"]:
        return ""
    return (
        f"{example['value']} (bound {example['threshold']})"
        if example["threshold"]
        else str(example["value"])
    )


def _kept(stats: Mapping[str, Any]) -> list[Block]:
    edges = list(stats["lengths"])
    labels = [f"{low} to {int(high) - 1}" for low, high in itertools.pairwise(edges)]
    labels.append(f"{edges[-1]} and more")
    lengths = [
        (label, float(stats["lengths"][edge])) for label, edge in zip(labels, edges, strict=True)
    ]
    blocks: list[Block] = [
        Bars("Length in words", lengths, "documents"),
        Bars("Languages", list(stats["languages"].items())[:15], "documents"),
        *_languages_seen(stats),
        Table(["domain", "documents"], [[domain, n] for domain, n in stats["top_domains"].items()]),
    ]
    if stats["pii"]:
        blocks.append(
            Table(
                ["personal data replaced", "times"], [[kind, n] for kind, n in stats["pii"].items()]
            )
        )
    return blocks


def _languages_seen(stats: Mapping[str, Any]) -> list[Block]:
    """What was there before the wanted languages were chosen."""
    seen = stats.get("languages_seen", {})
    if not seen or seen == stats["languages"]:
        return []
    return [Bars("Languages of all documents that were looked at", list(seen.items())[:15], "documents")]  # fmt: skip


def _unread(stats: Mapping[str, Any]) -> list[Block]:
    blocks: list[Block] = []
    if stats["unreadable"]:
        blocks.append(Prose(f"{stats['skipped_bytes']:,} bytes of the inputs could not be used."))
        reasons = stats["unreadable_reasons"].items()
        blocks.append(Table(["unreadable", "documents"], [[reason, n] for reason, n in reasons]))
    if stats["other_records"]:
        others = list(stats["other_records"].items())[:30]
        blocks.append(
            Table(["records that are no documents", "number"], [[kind, n] for kind, n in others])
        )
    return blocks


def _clusters(stats: Mapping[str, Any]) -> list[Block]:
    rows: list[list[str | int | float]] = []
    for step, sizes in stats["clusters"].items():
        dropped = sum((int(size) - 1) * n for size, n in sizes.items())
        largest = max(map(int, sizes), default=0)
        rows.append([step, sum(sizes.values()), dropped, largest])
    blocks: list[Block] = [
        Table(["step", "clusters", "documents in them beyond the first", "largest cluster"], rows)
    ]
    runs = stats.get("repeated_runs", {})
    if runs.get("tokens_cut"):
        blocks.append(
            Prose(
                f"Runs of words that stood before: {runs['tokens_cut']:,} words and signs were cut; "
                f"{runs['documents_cut']:,} documents stayed without them."
            )
        )
    return blocks


def _largest(clusters: list[dict[str, Any]]) -> list[Block]:
    """The largest clusters: what is kept, and a few of those that it stands for."""
    blocks: list[Block] = []
    for cluster in clusters:
        rows: list[list[str | int | float]] = []
        for fate, documents in (("kept", [cluster["kept"]]), ("dropped", cluster["dropped"])):
            rows += [
                [fate, document.get("url") or document["id"], document["excerpt"]]
                for document in documents
                if document
            ]
        headers = [f"{cluster['step']}, {cluster['documents']} documents", "address", "begins"]
        blocks.append(Table(headers, rows))
    return blocks


def _percent(part: int, whole: int) -> str:
    return f"{100 * part / whole:.1f} %" if whole else ""
