"""Keys and groups: the LSH formula, exact components against a slow twin, addresses written alike."""

from __future__ import annotations

import random

import numpy as np
import pytest

from llmpipe.stages.data.document import Document, SplitText
from llmpipe.stages.data.grouping import cluster, equal_pairs, union
from llmpipe.stages.data.steps.dedup_keys import (
    ExactDedupConfig,
    MinHashConfig,
    TextKey,
    UrlDedupConfig,
    UrlKey,
    normalize_url,
)
from llmpipe.stages.data.steps.minhash import MinHash


def words(n: int, seed: int) -> list[str]:
    rng = random.Random(seed)
    return ["".join(rng.choices("abcdefghijklmnopqrstuvwxyz", k=7)) for _ in range(n)]


def shingles(text: list[str], n: int = 5) -> set[tuple[str, ...]]:
    return {tuple(text[i : i + n]) for i in range(len(text) - n + 1)}


def jaccard(a: list[str], b: list[str]) -> float:
    left, right = shingles(a), shingles(b)
    return len(left & right) / len(left | right)


def pair(n_shared: int, n_own: int, seed: int) -> tuple[list[str], list[str]]:
    """Two texts with a common beginning and different ends."""
    shared = words(n_shared, seed)
    return shared + words(n_own, seed + 10_000), shared + words(n_own, seed + 20_000)


def test_signature_estimates_jaccard() -> None:
    hasher = MinHash(MinHashConfig())
    errors = []
    for seed in range(40):
        a, b = pair(120, 30, seed)
        equal = np.mean(hasher.signature(" ".join(a)) == hasher.signature(" ".join(b)))
        errors.append(equal - jaccard(a, b))
    # One estimate has a standard deviation of at most sqrt(.25 / 112) = 0.047; the mean of 40 of 0.0075.
    assert abs(np.mean(errors)) < 0.025
    assert np.sqrt(np.mean(np.square(errors))) < 0.06


@pytest.mark.parametrize(("n_shared", "n_own"), [(140, 10), (130, 22), (110, 45)])
def test_pairs_are_found_at_the_rate_of_the_formula(n_shared: int, n_own: int) -> None:
    hasher = MinHash(MinHashConfig())
    found, expected, n = 0, 0.0, 150
    for seed in range(n):
        a, b = pair(n_shared, n_own, seed)
        found += bool((hasher.bands(" ".join(a)) == hasher.bands(" ".join(b))).any())
        expected += 1 - (1 - jaccard(a, b) ** 8) ** 14
    # Three standard deviations of a binomial, which is at most 0.5 * sqrt(n).
    assert abs(found - expected) <= 3 * 0.5 * np.sqrt(n)


def test_different_texts_share_no_band() -> None:
    hasher = MinHash(MinHashConfig())
    keys = np.stack([hasher.bands(" ".join(words(100, seed))) for seed in range(200)])
    assert all(len(np.unique(keys[:, band])) == 200 for band in range(14))


def test_case_punctuation_and_numbers_do_not_count() -> None:
    hasher = MinHash(MinHashConfig())
    a = hasher.bands("On day 12, the Cat sat on the mat; it was 1,000 km from home.")
    b = hasher.bands("on day 7 the cat sat on the mat it was 2,500 km from home")
    assert (a == b).all()


def test_short_texts_are_not_all_alike() -> None:
    hasher = MinHash(MinHashConfig())
    assert (hasher.bands("one two") != hasher.bands("three four")).all()
    assert (hasher.bands("one two") == hasher.bands("One two!")).all()


def test_other_numbers_of_bands_and_rows() -> None:
    assert MinHash(MinHashConfig(bands=20, rows=5)).bands("a b c d e f").shape == (20,)


def slow_components(n: int, pairs: list[tuple[int, int]]) -> list[int]:
    """The smallest member of every node's component, by repeated relabeling."""
    label = list(range(n))
    changed = True
    while changed:
        changed = False
        for a, b in pairs:
            low = min(label[a], label[b])
            changed |= label[a] != low or label[b] != low
            label[a] = label[b] = low
    return label


@pytest.mark.parametrize("seed", range(20))
def test_union_equals_a_slow_twin(seed: int) -> None:
    rng = random.Random(seed)
    n = 60
    pairs = [(rng.randrange(n), rng.randrange(n)) for _ in range(rng.randrange(80))]
    left, right = (np.array([p[i] for p in pairs], np.int64) for i in (0, 1))
    assert union(np.arange(n), left, right).tolist() == slow_components(n, pairs)


def test_union_of_a_long_chain() -> None:
    n = 5_000
    order = np.random.default_rng(0).permutation(n)
    assert not union(np.arange(n), order[:-1], order[1:]).any()


def test_equal_pairs() -> None:
    left, right = equal_pairs(np.array([7, 3, 7, 9, 3, 7], np.uint64))
    assert sorted(zip(left.tolist(), right.tolist(), strict=True)) == [(0, 2), (0, 5), (1, 4)]
    assert len(equal_pairs(np.empty(0, np.uint64))[0]) == 0


def test_clusters_join_over_columns_and_members_only() -> None:
    first = np.array([1, 1, 2, 3, 3], np.uint64)
    second = np.array([5, 6, 6, 8, 8], np.uint64)
    everyone = cluster([first, second], np.ones(5, bool))
    assert everyone.tolist() == [0, 0, 0, 3, 3]
    without = cluster([first, second], np.array([True, False, True, True, True]))
    assert without.tolist() == [0, 1, 2, 3, 3]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("http://www.example.com/a/", "https://example.com/a#top"),
        ("https://Example.COM:443/a?x=1", "http://example.com/a?x=1"),
        ("http://example.com", "http://example.com/"),
    ],
)
def test_equal_addresses(one: str, other: str) -> None:
    assert normalize_url(one) == normalize_url(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("http://example.com/a", "http://example.com/A"),
        ("http://example.com/a?x=1", "http://example.com/a?x=2"),
        ("http://example.com:8080/", "http://example.com/"),
    ],
)
def test_different_addresses(one: str, other: str) -> None:
    assert normalize_url(one) != normalize_url(other)
    assert normalize_url("http://[broken/") == "http://[broken/"


def test_query_can_be_ignored() -> None:
    assert normalize_url("http://e.com/a?x=1", ignore_query=True) == normalize_url("http://e.com/a")


def test_keys_are_noted() -> None:
    document = Document(url="", date="", content=SplitText("\n text \n"))
    UrlKey(UrlDedupConfig())(document)
    TextKey(ExactDedupConfig())(document)
    other = Document(url="http://a.b/", date="", content=SplitText("text"))
    UrlKey(UrlDedupConfig())(other)
    TextKey(ExactDedupConfig())(other)
    assert "url_dedup" not in document.keys  # no address, no duplicate by address
    assert document.keys["exact_dedup"] == other.keys["exact_dedup"]
