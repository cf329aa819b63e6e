"""Words hashed letter by letter in NumPy are the words that the regular expressions find."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmpipe.stages.data.steps.minhash import WordHashes
from llmpipe.tasks.overlap import normalize_words

HASHES = WordHashes(np.random.default_rng(1))
# Signs where Unicode is odd: capital dotted i, sharp s, sigmas, Arabic digits, a circled digit, letters and emoji beyond 16 bits.
LETTERS = "aB_9 0.,'\n\t-\0İßΣσς٣①é\u0301\u00a0\u2028𝔸𐌰😀"


@given(st.text(st.sampled_from(LETTERS), max_size=40))
def test_same_words_have_the_same_hash_and_others_another(text: str) -> None:
    words, hashes = normalize_words(text), HASHES(text).tolist()
    assert len(words) == len(hashes)
    known = {word: int(HASHES(word)[0]) for word in words}
    assert hashes == [known[word] for word in words]
    assert len(set(known.values())) == len(known)


@pytest.mark.parametrize("text", ["", " ", "...", "\n\n", "😀"])
def test_no_words(text: str) -> None:
    assert HASHES(text).tolist() == []


def test_numbers_are_alike_and_the_order_of_letters_counts() -> None:
    assert HASHES("in 1999, 5 of 12,000").tolist() == HASHES("in 2024, 7 of 1,5").tolist()
    assert HASHES("stop").tolist() != HASHES("pots").tolist()
