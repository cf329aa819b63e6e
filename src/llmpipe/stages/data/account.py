"""The account: every document ends as kept, dropped (step, reason) or unreadable (reason), and the sums hold."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import date
from typing import Any
from urllib.parse import urlsplit

from llmpipe.stages.data.segments import DROPPED, KEPT, READ, UNREADABLE

_TOP_DOMAINS = 25
LENGTH_EDGES = (0, 50, 100, 200, 500, 1_000, 2_000, 5_000, 10_000, 20_000, 50_000, 100_000)
"""Edges of the histogram of kept documents, in words."""


@dataclass
class Account:
    """Counts of one run."""

    steps: Sequence[str]
    n_documents: int = 0
    unreadable: Counter[str] = field(default_factory=Counter)
    dropped: Counter[tuple[str, str]] = field(default_factory=Counter)
    others: Counter[str] = field(default_factory=Counter)
    bad_bytes: int = 0
    n_kept: int = 0
    n_bytes: int = 0
    n_words: int = 0
    languages: Counter[str] = field(default_factory=Counter)
    languages_seen: Counter[str] = field(default_factory=Counter)
    """Of every document that got as far as having one, kept or not."""
    domains: Counter[str] = field(default_factory=Counter)
    pii: Counter[str] = field(default_factory=Counter)
    lengths: Counter[int] = field(default_factory=Counter)
    cluster_sizes: dict[str, Counter[int]] = field(default_factory=dict)
    n_cut: int = 0
    """Documents that lost a repeated run and stayed."""
    n_cut_tokens: int = 0
    """Words and signs that went with such runs, in all documents."""
    last_date: str = ""

    def add_outcome(self, outcome: str, step: str, reason: str) -> None:
        """Count what became of a document."""
        self.n_documents += 1
        if outcome == UNREADABLE:
            self.unreadable[reason] += 1
        elif outcome == DROPPED:
            self.dropped[step, reason] += 1
        else:
            assert outcome == KEPT
            self.n_kept += 1

    def add_language(self, lang: str, reason: str, value: str) -> None:
        """Count a document's language; the pre-filter names it as what it measured."""
        if seen := lang or (value if reason == "other_language" else ""):
            self.languages_seen[seen] += 1

    def add_kept(self, url: str, day: str, text_bytes: int, n_words: int, lang: str) -> None:
        """Count what a kept document holds."""
        self.n_bytes += text_bytes
        self.n_words += n_words
        self.languages[lang or "not determined"] += 1
        self.domains[host_of(url)] += 1
        self.lengths[max(edge for edge in LENGTH_EDGES if edge <= n_words)] += 1
        if is_date(day[:10]) and not day[10:11].isdigit():
            self.last_date = max(self.last_date, day[:10])

    def check(self) -> None:
        """Assert that nothing was lost and nothing counted twice."""
        n_dropped, n_unreadable = sum(self.dropped.values()), sum(self.unreadable.values())
        assert self.n_documents == self.n_kept + n_dropped + n_unreadable
        funnel = self.funnel()
        assert funnel[-1]["out"] == self.n_kept
        assert sum(self.languages.values()) == self.n_kept == sum(self.lengths.values())

    def funnel(self) -> list[dict[str, Any]]:
        """Return per step how many documents came in, what was dropped for which reason, and how many went on."""
        rows = []
        n = self.n_documents
        unreadable = {f"unreadable: {reason}": count for reason, count in self.unreadable.items()}
        for step in (READ, *self.steps):
            dropped = {
                reason: count for (name, reason), count in self.dropped.items() if name == step
            }
            if step == READ:
                dropped |= unreadable
            out = n - sum(dropped.values())
            rows.append({"step": step, "in": n, "out": out, "dropped": ranked(dropped)})
            n = out
        return rows

    def to_stats(self) -> dict[str, Any]:
        """Return the numbers for the manifest."""
        self.check()
        return {
            "documents_in": self.n_documents,
            "documents": self.n_kept,
            "dropped": sum(self.dropped.values()),
            "unreadable": sum(self.unreadable.values()),
            "kept_frac": round(self.n_kept / self.n_documents, 4) if self.n_documents else 0.0,
            "text_bytes": self.n_bytes,
            "words": self.n_words,
            "funnel": self.funnel(),
            "unreadable_reasons": ranked(self.unreadable),
            "skipped_bytes": self.bad_bytes,
            "other_records": ranked(self.others),
            "languages": ranked(self.languages),
            "languages_seen": ranked(self.languages_seen),
            "top_domains": ranked(self.domains, _TOP_DOMAINS),
            "pii": ranked(self.pii),
            "lengths": {str(edge): self.lengths[edge] for edge in LENGTH_EDGES},
            "clusters": {
                step: {str(size): sizes[size] for size in sorted(sizes)}
                for step, sizes in sorted(self.cluster_sizes.items())
            },
            "repeated_runs": {"documents_cut": self.n_cut, "tokens_cut": self.n_cut_tokens},
            "crawled_on": self.last_date or None,
        }


def ranked(counts: dict[str, int] | Counter[str], n: int | None = None) -> dict[str, int]:
    """Order counts from the largest, equal ones by name."""
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:n])


def host_of(url: str) -> str:
    """Return the host of an address, without `www.`; "no address" where there is none."""
    try:
        host = urlsplit(url).hostname
    except ValueError:
        host = None
    return (host or "no address").removeprefix("www.")


def is_date(text: str) -> bool:
    """Tell whether a text is a day such as 2024-05-31."""
    try:
        return len(text) == 10 and bool(date.fromisoformat(text))
    except ValueError:
        return False
