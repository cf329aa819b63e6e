"""N-grams that occur more than once in a text, by NumPy over all words at once."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


class Ngrams:
    """The n-grams of a text as numbers: equal n-grams have equal numbers, and there are no chance hits.

    Only the n-grams that occur more than once get a number, the others -1. The number of an n-gram is the rank of
    the pair (number of its first n-1 words, number of its last n-1 words), so only where both occur more than once
    is there anything to compare: for long n-grams almost nowhere. Ask for growing n, from 2.
    """

    def __init__(self, words: Sequence[str]) -> None:
        numbers = {word: i for i, word in enumerate(dict.fromkeys(words))}
        self._lengths = np.fromiter(map(len, words), np.int64, len(words))
        self._ends = np.concatenate(([0], np.cumsum(self._lengths)))
        self._n = 1
        self._numbers = np.fromiter(map(numbers.__getitem__, words), np.int64, len(words))
        self._first = np.empty(0, np.int64)
        self._counts = np.empty(0, np.int64)

    def top_chars(self, n: int) -> int:
        """Return the characters taken by all occurrences of the most frequent n-gram, joined by spaces.

        Of equally frequent n-grams the one that comes first counts.
        """
        self._grow(n)
        if not len(self._numbers):
            return 0
        times, start = 1, 0
        if len(self._counts):
            times = int(self._counts.max())
            start = int(self._first[self._counts == times].min())
        return int(self._ends[start + n] - self._ends[start] + n - 1) * times

    def most_repeated_chars(self, n: int) -> int:
        """Return an upper bound of `repeated_chars` that needs no loop: words in any n-gram that stood before."""
        self._grow(n)
        is_repeated = self._numbers >= 0
        is_repeated[self._first] = False
        edges = np.zeros(len(self._lengths) + 1, np.int64)
        edges[: len(is_repeated)] += is_repeated
        edges[n : n + len(is_repeated)] -= is_repeated
        return int(self._lengths[np.cumsum(edges)[:-1] > 0].sum())

    def repeated_chars(self, n: int) -> int:
        """Return the characters, without spaces, of n-grams that stood before, not counting overlaps twice."""
        self._grow(n)
        seen: set[int] = set()
        places = np.flatnonzero(self._numbers >= 0)
        n_chars = free_from = 0
        for place, number in zip(places.tolist(), self._numbers[places].tolist(), strict=True):
            if place < free_from:
                continue
            if number in seen:
                n_chars += int(self._ends[place + n] - self._ends[place])
                free_from = place + n
            else:
                seen.add(number)
        return n_chars

    def _grow(self, n: int) -> None:
        while self._n < n:
            self._n += 1
            heads, tails = self._numbers[:-1], self._numbers[1:]
            places = np.flatnonzero((heads >= 0) & (tails >= 0))
            pairs = heads[places] * (int(self._numbers.max(initial=0)) + 1) + tails[places]
            _, first, numbers, counts = np.unique(
                pairs, return_index=True, return_inverse=True, return_counts=True
            )
            stands_again = counts > 1
            self._numbers = np.full(len(heads), -1, np.int64)
            self._numbers[places] = np.where(stands_again[numbers], numbers, -1)
            self._first, self._counts = places[first[stands_again]], counts[stands_again]
