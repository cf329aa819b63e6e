"""Gopher's repetition rules: repeated lines, paragraphs and n-grams.

Source: Rae et al. 2021, arXiv:2112.11446, table A1; the measures follow datatrove's
`gopher_repetition_filter.py`, which FineWeb used. N-grams are compared as tuples of word numbers.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

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
        words, n_chars = content.tokens, len(content.text)
        for n, bound in self._top:
            share = top_ngram_chars(words, n) / n_chars
            if share > bound:
                return Drop(f"top_{n}_gram", share, bound)
        for n, bound in self._dup:
            share = repeated_ngram_chars(words, n) / n_chars
            if share > bound:
                return Drop(f"dup_{n}_gram", share, bound)
        return None


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


def top_ngram_chars(words: Sequence[str], n: int) -> int:
    """Return the characters taken by all occurrences of the most frequent n-gram, joined by spaces.

    Of equally frequent n-grams the one that comes first counts.
    """
    counts = Counter(zip(*(words[i:] for i in range(n)), strict=False))
    if not counts:
        return 0
    ngram, times = counts.most_common(1)[0]
    return (sum(map(len, ngram)) + n - 1) * times


def repeated_ngram_chars(words: Sequence[str], n: int) -> int:
    """Return the characters, without spaces, of n-grams that stood before, not counting overlaps twice."""
    seen: set[tuple[str, ...]] = set()
    n_chars = position = 0
    while position + n <= len(words):
        ngram = tuple(words[position : position + n])
        if ngram in seen:
            n_chars += sum(map(len, ngram))
            position += n
        else:
            seen.add(ngram)
            position += 1
    return n_chars
