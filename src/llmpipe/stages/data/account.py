"""The account: every document ends as kept, dropped (step, reason) or unreadable (reason), and the sums hold."""

from __future__ import annotations

import contextlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from llmpipe.stages.data.segments import DROPPED, KEPT, READ, UNREADABLE

_TOP_HOSTS = 25
_SEPARATOR = "\0"
LENGTH_EDGES = (0, 50, 100, 200, 500, 1_000, 2_000, 5_000, 10_000, 20_000, 50_000, 100_000)
"""Edges of the histogram of kept documents, in words."""
HOSTS = pa.schema([("host", pa.string()), ("n", pa.int64())])
"""How many documents of a part come from each host."""


@dataclass
class Account:
    """Counts of one run."""

    steps: Sequence[str]
    n_documents: int = 0
    unreadable: Counter[str] = field(default_factory=Counter)
    dropped: Counter[str] = field(default_factory=Counter)
    """By step and reason: `c4/too_short`."""
    others: Counter[str] = field(default_factory=Counter)
    bad_bytes: int = 0
    n_kept: int = 0
    n_bytes: int = 0
    n_words: int = 0
    languages: Counter[str] = field(default_factory=Counter)
    languages_seen: Counter[str] = field(default_factory=Counter)
    """Of every document that got as far as having one, kept or not."""
    pii: Counter[str] = field(default_factory=Counter)
    lengths: Counter[str] = field(default_factory=Counter)
    n_cut: int = 0
    """Documents that lost a repeated run and stayed."""
    n_cut_tokens: int = 0
    """Words and signs that went with such runs, in all documents."""
    last_date: str = ""
    cluster_sizes: dict[str, Counter[int]] = field(default_factory=dict)
    top_hosts: dict[str, int] = field(default_factory=dict)

    def count(self, rows: pa.Table) -> None:
        """Count documents: what became of them, and what the kept ones hold."""
        self.n_documents += len(rows)
        for fate, n in _tally(rows["outcome"], rows["step"], rows["reason"]):
            outcome, step, reason = fate.split(_SEPARATOR)
            if outcome == UNREADABLE:
                self.unreadable[reason] += n
            elif outcome == DROPPED:
                self.dropped[f"{step}/{reason}"] += n
        # The pre-filter names a document's language as what it measured.
        measured = pc.if_else(pc.equal(rows["reason"], "other_language"), rows["value"], "")
        seen = pc.if_else(pc.equal(rows["lang"], ""), measured, rows["lang"])
        self.languages_seen.update({lang: n for lang, n in _tally(seen) if lang})
        self._count_kept(rows.filter(pc.equal(rows["outcome"], KEPT)))

    def _count_kept(self, rows: pa.Table) -> None:
        self.n_kept += len(rows)
        self.n_bytes += pc.sum(rows["n_bytes"]).as_py() or 0
        self.n_words += pc.sum(rows["n_words"]).as_py() or 0
        self.languages.update({lang or "not determined": n for lang, n in _tally(rows["lang"])})
        for found, n in _tally(rows["pii"].drop_null()):
            self.pii.update({kind: times * n for kind, times in json.loads(found).items()})
        bins = np.searchsorted(LENGTH_EDGES, rows["n_words"].to_numpy(), side="right") - 1
        for i, n in enumerate(np.bincount(bins).tolist()):
            self.lengths[str(LENGTH_EDGES[i])] += n
        for day in pc.unique(pc.utf8_slice_codeunits(rows["date"], 0, 11)).to_pylist():
            with contextlib.suppress(ValueError):  # not a day such as 2024-05-31
                if len(day) >= 10 and date.fromisoformat(day[:10]) and not day[10:].isdigit():
                    self.last_date = max(self.last_date, day[:10])

    def add(self, other: Mapping[str, Any]) -> None:
        """Add what `to_record` said of another account."""
        for name, value in other.items():
            mine = getattr(self, name)
            if isinstance(mine, Counter):
                mine.update(value)
            else:
                setattr(self, name, max(mine, value) if name == "last_date" else mine + value)

    def to_record(self) -> dict[str, Any]:
        """Return what can be added up, as JSON values."""
        whole = ("steps", "cluster_sizes", "top_hosts")
        return {name: value for name, value in vars(self).items() if name not in whole}

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
            fates = ((fate.partition("/"), count) for fate, count in self.dropped.items())
            dropped = {reason: count for (name, _, reason), count in fates if name == step}
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
            "top_domains": self.top_hosts,
            "pii": ranked(self.pii),
            "lengths": {str(edge): self.lengths[str(edge)] for edge in LENGTH_EDGES},
            "clusters": {
                step: {str(size): sizes[size] for size in sorted(sizes)}
                for step, sizes in sorted(self.cluster_sizes.items())
            },
            "repeated_runs": {"documents_cut": self.n_cut, "tokens_cut": self.n_cut_tokens},
            "crawled_on": self.last_date or None,
        }


def ranked(counts: Mapping[str, int]) -> dict[str, int]:
    """Order counts from the largest, equal ones by name."""
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def count_hosts(urls: pa.ChunkedArray) -> Counter[str]:
    """Count the hosts of addresses.

    An address is cut behind its host first, so that each host is looked at once and not once per page.
    """
    # Only where `//` comes before any `/`, `?` or `#` is what stands behind without influence on the host.
    starts = pc.replace_substring_regex(urls, r"(?s)\A([^/?#]*//[^/?#]*).*", r"\1")
    hosts: Counter[str] = Counter()
    for start, n in _tally(starts):
        hosts[host_of(start)] += n
    return hosts


def top_hosts(counts: Iterable[pa.Table]) -> dict[str, int]:
    """Return the most frequent hosts of tables of `host` and `n`, equal ones by name."""
    table = pa.concat_tables([HOSTS.empty_table(), *counts]).combine_chunks()
    encoded = table["host"].combine_chunks().dictionary_encode()
    n = np.zeros(len(encoded.dictionary), np.int64)
    np.add.at(n, encoded.indices.to_numpy(), table["n"].to_numpy())
    total = pa.table([encoded.dictionary, n], HOSTS)
    order = pc.select_k_unstable(total, _TOP_HOSTS, [("n", "descending"), ("host", "ascending")])
    return {row["host"]: row["n"] for row in total.take(order).to_pylist()}


def host_of(url: str) -> str:
    """Return the host of an address, without `www.`; "no address" where there is none."""
    try:
        host = urlsplit(url).hostname
    except ValueError:
        host = None
    return (host or "no address").removeprefix("www.")


def _tally(*columns: pa.ChunkedArray) -> list[tuple[str, int]]:
    """Return how often each combination of texts occurs in some columns."""
    joined = pc.binary_join_element_wise(*columns, _SEPARATOR)
    return [(row["values"], row["counts"]) for row in pc.value_counts(joined).to_pylist()]
