"""Gopher's repetition rules: repeated lines, paragraphs and n-grams.

Source: Rae et al. 2021, arXiv:2112.11446, table A1; the measures follow datatrove's
`gopher_repetition_filter.py`, which FineWeb used. N-grams are compared as numbers, in NumPy.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from llmpipe.stages.data.config import GopherRepetitionConfig
from llmpipe.stages.data.document import Document, Drop, Text


class GopherRepetition:
    """Drop texts that repeat themselves."""

    def __init__(self, config: GopherRepetitionConfig) -> None:
        self._config = config
        self._top = (
            (2, config.max_top_2_gram),
            (3, config.max_top_3_gram),
            (4, config.max_top_4_gram),
        )
        self._dup = (
            (5, config.max_dup_5_gram),
            (6, config.max_dup_6_gram),
            (7, config.max_dup_7_gram),
            (8, config.max_dup_8_gram),
            (9, config.max_dup_9_gram),
            (10, config.max_dup_10_gram),
        )

    def __call__(self, document: Document) -> Drop | None:
        """Say why a document is dropped, if it is."""
        content = document.content or Text("")
        if not content.text:
            return Drop("empty")
        return self._check_blocks(content) or self._check_ngrams(content)

    def _check_blocks(self, content: Text) -> Drop | None:
        config, n_chars = self._config, len(content.text)
        for blocks, unit, max_share, max_chars in (
            (
                content.paragraphs,
                "paragraphs",
                config.max_dup_paragraphs,
                config.max_dup_paragraph_chars,
            ),
            (content.lines, "lines", config.max_dup_lines, config.max_dup_line_chars),
        ):
            n_repeated, chars_repeated = count_repeated(blocks)
            if n_repeated > max_share * len(blocks):
                return Drop(f"dup_{unit}", n_repeated / len(blocks), max_share)
            if chars_repeated > max_chars * n_chars:
                return Drop(f"dup_{unit[:-1]}_chars", chars_repeated / n_chars, max_chars)
        return None

    def _check_ngrams(self, content: Text) -> Drop | None:
        ngrams, n_chars = Ngrams(content.tokens), len(content.text)
        for n, bound in self._top:
            share = ngrams.top_chars(n) / n_chars
            if share > bound:
                return Drop(f"top_{n}_gram", share, bound)
        # What is in repeated n-grams is in shorter repeated ones too: mostly the 4-grams leave too little for any bound.
        least = min(bound for _, bound in self._dup) * n_chars
        at_most = ngrams.most_repeated_chars(4)
        for n, bound in self._dup:
            if at_most <= least:
                break
            at_most = ngrams.most_repeated_chars(n)
            if at_most <= bound * n_chars:
                continue
            share = ngrams.repeated_chars(n) / n_chars
            if share > bound:
                return Drop(f"dup_{n}_gram", share, bound)
        return None


class Ngrams:
    """The n-grams of a text as numbers: equal n-grams have equal numbers, and there are no chance hits.

    Only the n-grams that stand at several places get a number, the others -1. The number of an n-gram is the rank of
    the pair (number of its first n-1 words, number of its last n-1 words), so only where both stand at several places
    there is something to compare: for long n-grams almost nowhere. Ask for growing n, from 2.
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


def count_repeated(blocks: Sequence[str]) -> tuple[int, int]:
    """Return how many blocks stood before, and their characters."""
    seen: set[str] = set()
    n_blocks = n_chars = 0
    for block in blocks:
        if block in seen:
            n_blocks += 1
            n_chars += len(block)
        else:
            seen.add(block)
    return n_blocks, n_chars
