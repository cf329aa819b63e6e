"""What the stage measures: how well the vocabulary fits the corpus.

The card compares it with other vocabularies: bytes per token by source, language and domain,
measured on the validation documents, which no merge was learned from. Language and domain come
from the corpus, where it has the columns `lang` and `url`.
"""

from __future__ import annotations

import functools
import heapq
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np

from llmpipe.core.artifact import atomic_file
from llmpipe.stages.tokenize.documents import CorpusDocument
from llmpipe.tokenizer.bpe import Tokenizer
from llmpipe.tokenizer.encoders import EncoderPlan
from llmpipe.tokenizer.shards import Shard
from llmpipe.tokenizer.vocabularies import open_vocabulary

COUNTS_FILE = "token_counts.npy"
"""How often each token occurs in the training split; BOS is not counted."""

N_LONGEST = 20

OURS = "this one"
N_GROUPS = 24
"""Languages, and domains, that the card shows: the ones with the most text."""


def save_counts(path: Path, counts: np.ndarray) -> None:
    """Write the counts as `<u8`."""
    with atomic_file(path) as temporary, temporary.open("wb") as file:
        np.save(file, counts.astype("<u8"))


def source_sums(records: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, int]]:
    """Return the training documents, tokens and text bytes of each source, copies included."""
    keys = ("documents", "tokens", "text_bytes")
    sums: dict[str, dict[str, int]] = {}
    for record in records:
        row = sums.setdefault(record["source"], dict.fromkeys(keys, 0))
        for shard in record["shards"]:
            if shard["split"] == "train":
                for key in keys:
                    row[key] += shard[key]
    return sums


@dataclass(frozen=True)
class Vocabulary:
    """What is said of the tokenizer, which is not kept in memory while workers encode."""

    encoder: EncoderPlan
    digest: str
    vocab_size: int
    bos_id: int
    lengths: np.ndarray
    """Bytes of each ordinary token, by id."""
    longest: list[bytes]

    @classmethod
    def of(cls, tokenizer: Tokenizer, rank_file: Path) -> Vocabulary:
        """Take from a tokenizer what the stage needs, and write its ranks for the workers."""
        by_id = sorted(tokenizer.ranks, key=tokenizer.ranks.__getitem__)
        return cls(
            encoder=tokenizer.encoder_plan(rank_file),
            digest=tokenizer.digest,
            vocab_size=tokenizer.vocab_size,
            bos_id=tokenizer.bos_id,
            lengths=np.fromiter(map(len, by_id), dtype=np.int64, count=len(by_id)),
            longest=heapq.nsmallest(N_LONGEST, by_id, key=lambda token: (-len(token), token)),
        )


def collect(vocabulary: Vocabulary, shards: Sequence[Shard], counts: np.ndarray) -> dict[str, Any]:
    """Return the numbers for the manifest."""
    train = [shard for shard in shards if shard.split == "train"]
    val = [shard for shard in shards if shard.split == "val"]
    documents = sum(shard.documents for shard in shards)
    text_bytes = sum(shard.text_bytes for shard in shards)
    tokens = sum(shard.tokens for shard in shards)
    lengths = vocabulary.lengths
    # Single bytes cannot be unused by mistake: they are there so that every text has ids.
    is_unused = (lengths > 1) & (counts[: len(lengths)] == 0)
    by_length = np.bincount(lengths)
    return {
        "vocab_size": vocabulary.vocab_size,
        "tokenizer": vocabulary.digest,
        "documents": documents,
        "train_documents": sum(shard.documents for shard in train),
        "val_documents": sum(shard.documents for shard in val),
        "train_tokens": sum(shard.tokens for shard in train),
        "val_tokens": sum(shard.tokens for shard in val),
        "text_bytes": text_bytes,
        "val_text_bytes": sum(shard.text_bytes for shard in val),
        # BOS is not text: without it the number tells of the vocabulary alone.
        "bytes_per_token": round(text_bytes / max(1, tokens - documents), 4),
        "unused_tokens": int(is_unused.sum()),
        "token_lengths": {str(n): int(by_length[n]) for n in np.flatnonzero(by_length)},
        "longest_tokens": [token.decode("utf-8", errors="replace") for token in vocabulary.longest],
    }


class Card:
    """Adds up bytes and tokens by group."""

    def __init__(self, compare: Sequence[str]) -> None:
        """Load the vocabularies to compare, named as in `cl100k_base.tiktoken` or by their folder."""
        self._others = {Path(v).name.removesuffix(".tiktoken"): _load(v) for v in compare}
        self._groups: defaultdict[str, Counter[str]] = defaultdict(Counter)

    def add(self, document: CorpusDocument, source: str, n_tokens: int) -> None:
        """Count one document, which this vocabulary turned into `n_tokens`."""
        text = document.text or ""
        row = {"bytes": len(document.data), OURS: n_tokens}
        row |= {name: len(t.encode_array(text)) for name, t in self._others.items()}
        for group in _groups_of(document, source):
            self._groups[group].update(row)

    def largest(self) -> dict[str, Counter[str]]:
        """Return the sums of the largest groups, so that a unit's record stays small."""
        return _largest(self._groups, 8 * N_GROUPS)


def add_cards(cards: Sequence[Mapping[str, Mapping[str, int]]]) -> dict[str, Counter[str]]:
    """Add up the cards of all units and keep the largest groups of each kind."""
    total: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for card in cards:
        for group, row in card.items():
            total[group].update(row)
    return _largest(total, N_GROUPS)


def _groups_of(document: CorpusDocument, source: str) -> list[str]:
    groups = ["all/", f"source/{source}"]
    if document.lang:
        groups.append(f"language/{document.lang}")
    if document.url:
        host = urlsplit(document.url).hostname or ""
        groups.append(f"domain/{host.removeprefix('www.')}")
    return groups


def _largest(groups: Mapping[str, Counter[str]], n_each: int) -> dict[str, Counter[str]]:
    """Return the groups with the most text of each kind, the largest first."""
    n_seen: Counter[str] = Counter()
    kept = {}
    for group, row in sorted(groups.items(), key=lambda item: (-item[1]["bytes"], item[0])):
        kind = group.split("/", 1)[0]
        n_seen[kind] += 1
        if n_seen[kind] <= n_each:
            kept[group] = row
    return kept


_load = functools.lru_cache(maxsize=8)(open_vocabulary)  # once in each worker process
