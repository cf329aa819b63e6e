"""What the stage measures: how well the vocabulary fits the corpus."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from llmpipe.core.artifact import atomic_file
from llmpipe.tokenizer.bpe import Tokenizer
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


def collect(tokenizer: Tokenizer, shards: Sequence[Shard], counts: np.ndarray) -> dict[str, Any]:
    """Return the numbers for the manifest."""
    n_ordinary = len(tokenizer.ranks)
    train = [shard for shard in shards if shard.split == "train"]
    val = [shard for shard in shards if shard.split == "val"]
    documents = sum(shard.documents for shard in shards)
    text_bytes = sum(shard.text_bytes for shard in shards)
    tokens = sum(shard.tokens for shard in shards)
    # Single bytes cannot be unused by mistake: they are there so that every text has ids.
    is_merge = np.array([len(tokenizer.token_bytes(i)) > 1 for i in range(n_ordinary)], dtype=bool)
    by_length = sorted(tokenizer.ranks, key=lambda token: (-len(token), token))
    lengths = Counter(len(token) for token in tokenizer.ranks)
    return {
        "vocab_size": tokenizer.vocab_size,
        "tokenizer": tokenizer.digest,
        "documents": documents,
        "train_documents": sum(shard.documents for shard in train),
        "val_documents": sum(shard.documents for shard in val),
        "train_tokens": sum(shard.tokens for shard in train),
        "val_tokens": sum(shard.tokens for shard in val),
        "text_bytes": text_bytes,
        "val_text_bytes": sum(shard.text_bytes for shard in val),
        # BOS is not text: without it the number tells of the vocabulary alone.
        "bytes_per_token": round(text_bytes / max(1, tokens - documents), 4),
        "unused_tokens": int((counts[:n_ordinary][is_merge] == 0).sum()),
        "token_lengths": {str(n): lengths[n] for n in sorted(lengths)},
        "longest_tokens": [
            token.decode("utf-8", errors="replace") for token in by_length[:N_LONGEST]
        ],
    }
