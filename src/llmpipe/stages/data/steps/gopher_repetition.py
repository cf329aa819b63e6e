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
        for n, bound in self._dup:
            if ngrams.are_distinct(n):
                break  # then the longer ones are distinct too
            if ngrams.most_repeated_chars(n) <= bound * n_chars:
                continue
            share = ngrams.repeated_chars(n) / n_chars
            if share > bound:
                return Drop(f"dup_{n}_gram", share, bound)
        return None


class Ngrams:
    """The n-grams of a text as numbers: equal n-grams have equal numbers, and there are no chance hits.

    The number of an n-gram is the rank of the pair (number of its first n-1 words, number of its last word).
    Ask for growing n.
    """

    def __init__(self, words: Sequence[str]) -> None:
        numbers: dict[str, int] = {}
        self._words = np.fromiter(
            (numbers.setdefault(word, len(numbers)) for word in words), np.int64, len(words)
        )
        self._n_different = len(numbers)
        self._lengths = np.fromiter(map(len, words), np.int64, len(words))
        self._ends = np.concatenate(([0], np.cumsum(self._lengths)))
        self._n = 1
        self._numbers = self._words
        self._first = np.empty(0, np.int64)
        self._counts = np.empty(0, np.int64)

    def top_chars(self, n: int) -> int:
        """Return the characters taken by all occurrences of the most frequent n-gram, joined by spaces.

        Of equally frequent n-grams the one that comes first counts.
        """
        self._grow(n)
        if not len(self._counts):
            return 0
        times = self._counts.max()
        start = self._first[self._counts == times].min()
        return int((self._ends[start + n] - self._ends[start] + n - 1) * times)

    def are_distinct(self, n: int) -> bool:
        """Whether no n-gram stands twice."""
        self._grow(n)
        return len(self._counts) == len(self._numbers)

    def most_repeated_chars(self, n: int) -> int:
        """Return an upper bound of `repeated_chars` that needs no loop: words in any n-gram that stood before."""
        self._grow(n)
        is_repeated = np.ones(len(self._numbers), np.int64)
        is_repeated[self._first] = 0
        edges = np.zeros(len(self._words) + 1, np.int64)
        edges[: len(is_repeated)] += is_repeated
        edges[n : n + len(is_repeated)] -= is_repeated
        return int(self._lengths[np.cumsum(edges)[:-1] > 0].sum())

    def repeated_chars(self, n: int) -> int:
        """Return the characters, without spaces, of n-grams that stood before, not counting overlaps twice."""
        self._grow(n)
        seen: set[int] = set()
        numbers = self._numbers.tolist()
        n_chars = position = 0
        while position < len(numbers):
            if numbers[position] in seen:
                n_chars += int(self._ends[position + n] - self._ends[position])
                position += n
            else:
                seen.add(numbers[position])
                position += 1
        return n_chars

    def _grow(self, n: int) -> None:
        while self._n < n:
            self._n += 1
            pairs = self._numbers[:-1] * self._n_different + self._words[self._n - 1 :]
            _, self._first, self._numbers, self._counts = np.unique(
                pairs, return_index=True, return_inverse=True, return_counts=True
            )


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
