"""Which documents are for validation, which train the tokenizer, and how often each source is used.

All are decided by a hash of the text: whatever the order of files and the number of processes, a
document falls on the same side, and so do copies of it. A first pass over the corpus adds up what
the thresholds need, in memory that does not grow with the corpus.

A source that is used several times over is read as several rounds of units, each a copy. So a
document's copies lie far apart, and nothing has to be remembered to make them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import xxhash

from llmpipe.core.errors import UserError
from llmpipe.core.units import Unit
from llmpipe.stages.tokenize.config import CorpusPart, TokenizeConfig
from llmpipe.stages.tokenize.documents import expand_inputs, plan_ranges

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


@dataclass
class Scan:
    """What the first pass finds; two of them add up, in any order."""

    documents: int = 0
    text_bytes: int = 0
    lowest_hash: int = HASH_RANGE
    highest_hash: int = -1
    bucket_bytes: list[int] = field(default_factory=lambda: [0] * N_BUCKETS)

    def add(self, text: bytes, seed: int) -> None:
        """Count one document, unless it is empty."""
        if not text:
            return
        self.documents += 1
        self.text_bytes += len(text)
        number = split_hash(text)
        self.lowest_hash = min(self.lowest_hash, number)
        self.highest_hash = max(self.highest_hash, number)
        self.bucket_bytes[sample_bucket(text, seed)] += len(text)


def add_up(records: Iterable[Mapping[str, Any]]) -> Scan:
    """Add up the scans of units, as their records hold them."""
    total = Scan()
    for record in records:
        total.documents += record["documents"]
        total.text_bytes += record["text_bytes"]
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


def sources_of(config: TokenizeConfig) -> tuple[CorpusPart, ...]:
    """Return the sources that the settings ask for: at least one.

    Raises:
        UserError: if the settings contradict each other.
    """
    if not config.sources:
        return (CorpusPart("all", config.inputs),)
    if config.inputs:
        raise UserError(
            "`tokenize.inputs` and `tokenize.sources` are both set",
            "name the files in `tokenize.sources`, one entry for each part of the mixture",
        )
    names = [source.name for source in config.sources]
    if len(set(names)) < len(names):
        raise UserError(f"two sources have one name: {', '.join(names)}")
    shares = sum(source.train_share or 0.0 for source in config.sources)
    if shares > 1 + 1e-9:
        raise UserError(f"the `train_share`s of the sources add up to {shares:g}, over 1")
    return config.sources


def plan_mixture(config: TokenizeConfig, corpus_paths: Sequence[str]) -> list[Unit]:
    """Cut all sources into units, the copies of a source one after the other.

    A unit's place in the list is its id: the folder in which it is done belongs to one input and one group of settings.
    """
    ranges = []
    for i, source in enumerate(sources_of(config)):
        paths = expand_inputs(source.inputs) if source.inputs else corpus_paths
        planned = plan_ranges(paths, config.unit_bytes)
        for copy in range(math.ceil(source.epochs)):
            ranges += [replace(found, source=i, copy=copy) for found in planned]
    return [
        Unit(f"{i:05d}", f"{found.path} from {found.start:,}", found)
        for i, found in enumerate(ranges)
    ]


def is_in_copy(text: bytes, epochs: float, copy: int) -> bool:
    """Say whether a training document stands in this copy of its source."""
    if copy + 1 <= epochs:
        return True
    return xxhash.xxh3_64_intdigest(text, seed=_COPY_SEED) / HASH_RANGE < epochs - copy


def sample_sizes(
    sources: Sequence[CorpusPart], scans: Sequence[Scan], train_bytes: int
) -> tuple[int, ...]:
    """Return for each source how many buckets of its documents the merges are learned from."""
    weights = [s.epochs * scan.text_bytes for s, scan in zip(sources, scans, strict=True)]
    is_free = [source.train_share is None for source in sources]
    left = 1.0 - sum(source.train_share or 0.0 for source in sources)
    free_weight = sum(w for w, free in zip(weights, is_free, strict=True) if free)
    if all(is_free) and sum(scan.text_bytes for scan in scans) <= train_bytes:
        return tuple(sample_buckets(scan, scan.text_bytes) for scan in scans)
    sizes = []
    for source, scan, weight in zip(sources, scans, weights, strict=True):
        share = source.train_share
        if share is None:
            share = left * weight / free_weight if free_weight else 0.0
        wanted = round(share * train_bytes)
        sizes.append(sample_buckets(scan, wanted) if wanted else 0)
    return tuple(sizes)
