"""How well vocabularies fit the parts of a corpus: bytes per token by source, language and domain.

Measured on the validation documents, which no merge was learned from, with every vocabulary on the
same text. Language and domain come from the corpus, where it has the columns `lang` and `url`.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from llmpipe.stages.tokenize.documents import CorpusDocument
from llmpipe.tokenizer.bpe import Tokenizer
from llmpipe.tokenizer.published import open_vocabulary

OURS = "this one"
N_GROUPS = 24
"""Rows of a kind (languages, domains) that the card shows: the ones with the most text."""


class Card:
    """Adds up bytes and tokens by group."""

    def __init__(self, compare: Sequence[str]) -> None:
        self._others = {name_of(path): _load(path) for path in compare}
        self._groups: dict[str, dict[str, int]] = {}

    def add(self, document: CorpusDocument, source: str, n_tokens: int) -> None:
        """Count one document, which this vocabulary turned into `n_tokens`."""
        text = document.text or ""
        row = {"bytes": len(document.data), OURS: n_tokens}
        row |= {name: len(t.encode_array(text)) for name, t in self._others.items()}
        for group in _groups_of(document, source):
            total = self._groups.setdefault(group, dict.fromkeys(row, 0))
            for key, n in row.items():
                total[key] += n

    def to_json(self) -> dict[str, dict[str, int]]:
        """Return the sums, for a unit's record: the largest groups, so that it stays small."""
        return _largest(self._groups, 8 * N_GROUPS)


def add_cards(cards: Sequence[Mapping[str, Mapping[str, int]]]) -> dict[str, dict[str, int]]:
    """Add up the cards of all units and keep the largest groups of each kind."""
    total: dict[str, dict[str, int]] = {}
    for card in cards:
        for group, row in card.items():
            mine = total.setdefault(group, dict.fromkeys(row, 0))
            for key, n in row.items():
                mine[key] += n
    return _largest(total, N_GROUPS)


def name_of(path: str) -> str:
    """Return how the card calls a vocabulary: `cl100k_base`, or the folder's name."""
    return Path(path).name.removesuffix(".tiktoken")


def _groups_of(document: CorpusDocument, source: str) -> list[str]:
    groups = ["all/", f"source/{source}"]
    if document.lang:
        groups.append(f"language/{document.lang}")
    if document.url:
        host = urlsplit(document.url).hostname or ""
        groups.append(f"domain/{host.removeprefix('www.')}")
    return groups


def _largest(groups: Mapping[str, dict[str, int]], n_each: int) -> dict[str, dict[str, int]]:
    """Return the groups with the most text of each kind, the largest first."""
    by_size = sorted(groups.items(), key=lambda item: (-item[1]["bytes"], item[0]))
    kinds: dict[str, int] = {}
    kept = {}
    for group, row in by_size:
        kind = group.split("/", 1)[0]
        kinds[kind] = kinds.get(kind, 0) + 1
        if kinds[kind] <= n_each:
            kept[group] = row
    return kept


@functools.lru_cache(maxsize=8)
def _load(name: str) -> Tokenizer:
    """Load a vocabulary once in each worker process."""
    return open_vocabulary(name)


def bytes_per_token(row: Mapping[str, Any], name: str) -> float:
    """Return how many bytes of a group's text a token of a vocabulary holds."""
    return float(row["bytes"]) / max(1, int(row[name]))
