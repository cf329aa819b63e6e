"""What the stage measures: how well the vocabulary fits the corpus."""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from llmpipe.core.artifact import atomic_file
from llmpipe.tokenizer.bpe import Tokenizer
from llmpipe.tokenizer.encoders import EncoderPlan
from llmpipe.tokenizer.shards import Shard

COUNTS_FILE = "token_counts.npy"
"""How often each token occurs in the training split; BOS is not counted."""

N_LONGEST = 20


def save_counts(out: Path, counts: np.ndarray) -> None:
    """Write the counts as `<u8`."""
    with atomic_file(out / COUNTS_FILE) as temporary, temporary.open("wb") as file:
        np.save(file, counts.astype("<u8"))


def source_sums(records: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, int]]:
    """Return the training documents, tokens and text bytes of each source, copies included."""
    sums: dict[str, dict[str, int]] = {}
    for record in records:
        row = sums.setdefault(record["source"], {"documents": 0, "tokens": 0, "text_bytes": 0})
        for shard in record["shards"]:
            if shard["split"] == "train":
                for key in row:
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
