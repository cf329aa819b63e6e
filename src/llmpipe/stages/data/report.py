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
    summary = {
        "documents in": stats["documents_in"],
        "kept": stats["documents"],
        "dropped": stats["dropped"],
        "unreadable": stats["unreadable"],
        "words kept": stats["words"],
        "bytes of text kept": stats["text_bytes"],
        "input files": stats["input_files"],
        "latest page": stats["crawled_on"] or "unknown",
    }
    examples = _read_lines(artifact.file("examples.jsonl"))
    sections = [
        Section("Corpus", [_counts("", "", summary)]),
        Section("What each step dropped", _funnel(stats)),
        Section("Why, with an example", _reasons(stats, examples)),
        Section("What was kept", _kept(stats)),
    ]
    if stats["unreadable"] or stats["other_records"]:
        sections.append(Section("What was not read", _unread(stats)))
    if stats["clusters"]:
        largest = _read_lines(artifact.file("clusters.jsonl"))
        sections.append(Section("Duplicates", [*_clusters(stats), *map(_largest, largest)]))
    return sections


def _read_lines(path: Path) -> list[dict[str, Any]]:
    return read_objects(path) if path.is_file() else []


def _counts(what: str, unit: str, counts: Mapping[str, Any]) -> Table:
    return Table([what, unit], [[name, n] for name, n in counts.items()])


def _funnel(stats: Mapping[str, Any]) -> list[Block]:
    funnel, n = stats["funnel"], stats["documents_in"]
    left = [(row["step"], row["out"]) for row in funnel]
    rows = []
    for row in funnel:
        share = f"{100 * row['out'] / n:.1f} %" if n else ""
        rows.append([row["step"], row["in"], row["in"] - row["out"], row["out"], share])
    blocks: list[Block] = [
        Bars("Documents left after each step", left, "documents"),
        Table(["step", "in", "dropped", "left", "of all"], rows),
    ]
    seconds = stats.get("cpu_s", {})
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
    rows = []
    for row in stats["funnel"]:
        for reason, count in row["dropped"].items():
            case = first.get((row["step"], reason.removeprefix("unreadable: ")))
            measured = str(case["value"]) if case else ""
            if case and measured and case["threshold"]:
                measured += f" (bound {case['threshold']})"
            rows.append([row["step"], reason, count, measured])
            if case and case["excerpt"]:
                blocks.append(_side_by_side(f"{row['step']}, {reason}", case))
    if not rows:
        return [Prose("Nothing was dropped.")]
    return [Table(["step", "reason", "documents", "first case"], rows), *blocks]


def _side_by_side(title: str, case: Mapping[str, Any]) -> Block:
    """An example of a reason: the extracted text beside the page's HTML."""
    text, page = case["excerpt"][:_EXAMPLE_CHARS], case.get("page", "")[:_EXAMPLE_CHARS]
    caption = f"{title}: {case['url'] or case['id']}"
    return Table([caption, "the page's HTML"], [[text, page]]) if page else Code(text, caption)


def _kept(stats: Mapping[str, Any]) -> list[Block]:
    edges = list(stats["lengths"])
    labels = [f"{low} to {int(high) - 1}" for low, high in itertools.pairwise(edges)]
    labels.append(f"{edges[-1]} and more")
    lengths = [
        (label, float(n)) for label, n in zip(labels, stats["lengths"].values(), strict=True)
    ]
    languages, seen = stats["languages"], stats.get("languages_seen", {})
    blocks: list[Block] = [
        Bars("Length in words", lengths, "documents"),
        Bars("Languages", list(languages.items())[:15], "documents"),
    ]
    if seen and seen != languages:  # before the wanted languages were chosen
        title = "Languages of all documents that were looked at"
        blocks.append(Bars(title, list(seen.items())[:15], "documents"))
    blocks.append(_counts("domain", "documents", stats["top_domains"]))
    if stats["pii"]:
        blocks.append(_counts("personal data replaced", "times", stats["pii"]))
    return blocks


def _unread(stats: Mapping[str, Any]) -> list[Block]:
    blocks: list[Block] = []
    if stats["unreadable"]:
        blocks.append(Prose(f"{stats['skipped_bytes']:,} bytes of the inputs could not be used."))
        blocks.append(_counts("unreadable", "documents", stats["unreadable_reasons"]))
    if stats["other_records"]:
        others = dict(list(stats["other_records"].items())[:30])
        blocks.append(_counts("records that are no documents", "number", others))
    return blocks


def _clusters(stats: Mapping[str, Any]) -> list[Block]:
    rows = []
    for step, sizes in stats["clusters"].items():
        dropped = sum((int(size) - 1) * n for size, n in sizes.items())
        largest = max(map(int, sizes), default=0)
        rows.append([step, sum(sizes.values()), dropped, largest])
    headers = ["step", "clusters", "documents in them beyond the first", "largest cluster"]
    blocks: list[Block] = [Table(headers, rows)]
    runs = stats.get("repeated_runs", {})
    if runs.get("tokens_cut"):
        cut, n = runs["tokens_cut"], runs["documents_cut"]
        text = f"Runs of words that stood before: {cut:,} words and signs were cut; {n:,} documents stayed without them."
        blocks.append(Prose(text))
    return blocks


def _largest(cluster: Mapping[str, Any]) -> Table:
    """One of the largest clusters: what is kept, and a few of those that it stands for."""
    documents = [("kept", cluster["kept"]), *(("dropped", one) for one in cluster["dropped"])]
    rows = [
        [fate, document.get("url") or document["id"], document["excerpt"]]
        for fate, document in documents
        if document
    ]
    headers = [f"{cluster['step']}, {cluster['documents']} documents", "address", "begins"]
    return Table(headers, rows)
