"""MinHash finds planted near-duplicates at the rate that the formula of its bands gives."""

from __future__ import annotations

import numpy as np
import pytest

from llmpipe.stages.data.steps.dedup_keys import MinHashConfig
from llmpipe.stages.data.steps.minhash import MinHash

N_NGRAMS = 60
NGRAM = 5


def make_words(rng: np.random.Generator, n: int) -> list[str]:
    """Words of letters only: numbers count as equal."""
    letters = rng.integers(97, 123, (n, 8), dtype=np.uint8)
    return [row.tobytes().decode() for row in letters]


def planted_pair(rng: np.random.Generator, n_shared: int) -> tuple[str, str, float]:
    """Two texts whose first `n_shared` 5-grams are the same and whose others are not; and their Jaccard similarity."""
    words = make_words(rng, N_NGRAMS + NGRAM - 1)
    other = words[: n_shared + NGRAM - 1] + make_words(rng, N_NGRAMS - n_shared)
    return " ".join(words), " ".join(other), n_shared / (2 * N_NGRAMS - n_shared)


@pytest.mark.slow
@pytest.mark.parametrize("n_shared", [40, 50, 54, 60])
def test_planted_pairs_are_found_at_the_rate_of_the_formula(n_shared: int) -> None:
    keys, rng = MinHash(MinHashConfig()), np.random.default_rng(n_shared)
    found, n = 0, 1000
    for _ in range(n):
        one, other, similarity = planted_pair(rng, n_shared)
        found += bool((keys.bands(one) == keys.bands(other)).any())
    expected = 1 - (1 - similarity**8) ** 14
    assert abs(found / n - expected) < 0.03, (similarity, found / n, expected)


@pytest.mark.slow
def test_no_false_pair_in_ten_thousand() -> None:
    """142 texts share a passage, so that each of the 10,011 pairs has a Jaccard similarity of 30 / 170 = 0.18.

    The formula expects 14 * 0.18^8 * 10,011 = 0.15 false pairs.
    """
    keys, rng = MinHash(MinHashConfig()), np.random.default_rng(3)
    common = make_words(rng, 30 + NGRAM - 1)
    bands = []
    for _ in range(142):
        bands.append(keys.bands(" ".join(common + make_words(rng, 70))))
    table = np.array(bands)
    n_false = sum(
        int((table[i + 1 :] == table[i]).any(axis=1).sum()) for i in range(len(table) - 1)
    )
    assert n_false == 0


@pytest.mark.slow
def test_pairs_just_below_the_bound_are_found_no_more_often_than_the_formula_says() -> None:
    """10,000 pairs at 27 / 93 = 0.29: the formula itself expects 10,000 * (1 - (1 - 0.29^8)^14) = 7 of them.

    More than 17 would happen to a right implementation once in 2,500 runs (Poisson).
    """
    keys, rng = MinHash(MinHashConfig()), np.random.default_rng(29)
    found = 0
    for _ in range(10_000):
        one, other, _ = planted_pair(rng, 27)
        found += bool((keys.bands(one) == keys.bands(other)).any())
    assert found <= 17
