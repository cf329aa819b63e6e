"""The validation split and the training sample, by hash."""

from __future__ import annotations

from dataclasses import asdict

import pytest

from llmpipe.stages.tokenize.split import (
    HASH_RANGE,
    N_BUCKETS,
    Scan,
    add_up,
    sample_bucket,
    sample_buckets,
    split_hash,
    val_threshold,
)

TEXTS = [f"document number {i}".encode() for i in range(2000)]


def scan(texts: list[bytes]) -> Scan:
    found = Scan()
    for text in texts:
        found.add(text, seed=1)
    return found


def test_the_hash_is_xxh3_64() -> None:
    """Source of the value: xxHash's own test vector for an empty input with seed 0."""
    assert split_hash(b"") == 0x2D06800538D394C2


def test_parts_of_a_corpus_add_up_to_the_whole() -> None:
    parts = [scan(TEXTS[:700]), scan([b""]), scan(TEXTS[700:])]
    total = add_up(asdict(part) for part in reversed(parts))
    whole = scan(TEXTS)
    assert total.documents == 2000  # the empty one does not count
    assert (total.lowest_hash, total.highest_hash) == (whole.lowest_hash, whole.highest_hash)
    assert total.bucket_bytes == whole.bucket_bytes
    assert sum(whole.bucket_bytes) == whole.text_bytes == sum(map(len, TEXTS))


def test_the_share_for_validation_is_about_what_was_asked() -> None:
    below = val_threshold(scan(TEXTS), 0.1)
    n_val = sum(split_hash(text) < below for text in TEXTS)
    # binomial: 200 expected, standard deviation 13; five of them
    assert 135 < n_val < 265


@pytest.mark.parametrize("val_frac", [1e-9, 0.5, 0.999999999])
@pytest.mark.parametrize("n", [2, 3, 10])
def test_both_sides_have_a_document_where_there_are_two(n: int, val_frac: float) -> None:
    for start in range(0, 200, n):
        texts = TEXTS[start : start + n]
        below = val_threshold(scan(texts), val_frac)
        assert 0 < sum(split_hash(text) < below for text in texts) < n


def test_one_document_is_for_training() -> None:
    assert val_threshold(scan([b"only"]), 0.5) == 0
    assert val_threshold(scan([b"same", b"same"]), 0.5) == 0
    assert val_threshold(scan(TEXTS), 0.0) == 0
    assert val_threshold(Scan(), 0.5) == 0


def test_the_sample_holds_what_was_asked_or_a_little_more() -> None:
    whole = scan(TEXTS)
    n_buckets = sample_buckets(whole, 10_000)
    n_bytes = sum(len(text) for text in TEXTS if sample_bucket(text, 1) < n_buckets)
    # a bucket more than needed: 1/4096 of 41 kB, and never over a few documents
    assert 10_000 <= n_bytes < 10_200
    assert sample_buckets(whole, 10**9) == N_BUCKETS


def test_sample_and_split_are_independent() -> None:
    """Of the half with the lower split hash about half lies in the sample's lower half."""
    lower = [text for text in TEXTS if split_hash(text) < HASH_RANGE // 2]
    n_both = sum(sample_bucket(text, 1) < N_BUCKETS // 2 for text in lower)
    assert 0.4 < n_both / len(lower) < 0.6
