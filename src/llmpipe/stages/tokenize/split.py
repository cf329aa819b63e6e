"""Which documents are for validation, and which train the tokenizer.

Both are decided by a hash of the text: whatever the order of files and the number of processes, a
document falls on the same side, and so do copies of it. A first pass over the corpus adds up what
the two thresholds need, in memory that does not grow with the corpus.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import xxhash

HASH_RANGE = 1 << 64
N_BUCKETS = 1 << 12
"""The training sample is drawn in steps of 1/4,096 of the corpus."""

_COPY_SEED = 2**63
"""Far from the seeds of the samples, which are small numbers."""


def split_hash(text: bytes) -> int:
    """Return the number that decides between training and validation: xxh3_64 of the text."""
    return xxhash.xxh3_64_intdigest(text)


def sample_bucket(text: bytes, seed: int) -> int:
    """Return the bucket in which a text lies for the tokenizer's sample; another hash by seed."""
    return xxhash.xxh3_64_intdigest(text, seed=seed + 1) * N_BUCKETS // HASH_RANGE


def copy_fraction(text: bytes) -> float:
    """Return the number in 0..1 that decides whether a text is in a part of an epoch."""
    return xxhash.xxh3_64_intdigest(text, seed=_COPY_SEED) / HASH_RANGE


@dataclass
class Scan:
    """What the first pass finds; two of them add up, in any order."""

    documents: int = 0
    text_bytes: int = 0
    empty: int = 0
    lowest_hash: int = HASH_RANGE
    highest_hash: int = -1
    bucket_bytes: list[int] = field(default_factory=lambda: [0] * N_BUCKETS)

    def add(self, text: bytes, seed: int) -> None:
        """Count one document."""
        if not text:
            self.empty += 1
            return
        self.documents += 1
        self.text_bytes += len(text)
        number = split_hash(text)
        self.lowest_hash = min(self.lowest_hash, number)
        self.highest_hash = max(self.highest_hash, number)
        self.bucket_bytes[sample_bucket(text, seed)] += len(text)

    def to_json(self) -> dict[str, Any]:
        """Return the fields, for a unit's record."""
        return asdict(self)


def add_up(records: Iterable[Mapping[str, Any]]) -> Scan:
    """Add up the scans of units."""
    total = Scan()
    for record in records:
        total.documents += record["documents"]
        total.text_bytes += record["text_bytes"]
        total.empty += record["empty"]
        total.lowest_hash = min(total.lowest_hash, record["lowest_hash"])
        total.highest_hash = max(total.highest_hash, record["highest_hash"])
        for i, n in enumerate(record["bucket_bytes"]):
            total.bucket_bytes[i] += n
    return total


def val_threshold(scan: Scan, val_frac: float) -> int:
    """Return the hash below which a document is for validation.

    Where there are two different texts, the one with the lowest hash is always for validation and
    the one with the highest always for training, so that neither side is empty.
    """
    if val_frac == 0 or scan.lowest_hash >= scan.highest_hash:
        return 0
    wanted = int(val_frac * HASH_RANGE)
    return min(max(wanted, scan.lowest_hash + 1), scan.highest_hash)


def sample_buckets(scan: Scan, train_bytes: int) -> int:
    """Return how many buckets, from the first, hold `train_bytes` of text or a little more."""
    total = 0
    for i, n in enumerate(scan.bucket_bytes):
        total += n
        if total >= train_bytes:
            return i + 1
    return N_BUCKETS
