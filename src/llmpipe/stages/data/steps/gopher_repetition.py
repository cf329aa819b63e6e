"""Gopher's repetition rules: repeated lines, paragraphs and n-grams.

Source: Rae et al. 2021, arXiv:2112.11446, table A1; the measures follow datatrove's
`gopher_repetition_filter.py`, which FineWeb used. N-grams are compared as numbers, in `ngrams.py`.
"""

from __future__ import annotations

from collections.abc import Sequence

from llmpipe.core.config import schema
from llmpipe.stages.data.document import Document, Drop, SplitText
from llmpipe.stages.data.steps.base import Fraction, Step


@schema
class GopherRepetitionConfig:
    """Drop texts that repeat themselves. Source of all numbers: Rae et al. 2021, arXiv:2112.11446, table A1."""

    max_dup_paragraphs: Fraction = 0.30
    """Share of paragraphs that stood before."""
    max_dup_paragraph_chars: Fraction = 0.20
    """Share of characters in such paragraphs."""
    max_dup_lines: Fraction = 0.30
    """Share of lines that stood before."""
    max_dup_line_chars: Fraction = 0.20
    """Share of characters in such lines."""
    max_top_2_gram: Fraction = 0.20
    """Share of characters in the most frequent pair of words; likewise the next two."""
    max_top_3_gram: Fraction = 0.18
    """See `max_top_2_gram`."""
    max_top_4_gram: Fraction = 0.16
    """See `max_top_2_gram`."""
    max_dup_5_gram: Fraction = 0.15
    """Share of characters in runs of 5 words that stood before; likewise the next five."""
    max_dup_6_gram: Fraction = 0.14
    """See `max_dup_5_gram`."""
    max_dup_7_gram: Fraction = 0.13
    """See `max_dup_5_gram`."""
    max_dup_8_gram: Fraction = 0.12
    """See `max_dup_5_gram`."""
    max_dup_9_gram: Fraction = 0.11
    """See `max_dup_5_gram`."""
    max_dup_10_gram: Fraction = 0.10
    """See `max_dup_5_gram`."""


class GopherRepetition(Step[GopherRepetitionConfig]):
    """Drop texts that repeat themselves."""

    name = "gopher_repetition"
    summary = "drop texts that repeat themselves"

    def __init__(self, config: GopherRepetitionConfig) -> None:
        from llmpipe.stages.data.steps.ngrams import Ngrams

        self._config = config
        self._ngrams = Ngrams
        self._top = [(n, getattr(config, f"max_top_{n}_gram")) for n in range(2, 5)]
        self._dup = [(n, getattr(config, f"max_dup_{n}_gram")) for n in range(5, 11)]

    def __call__(self, document: Document) -> Drop | None:
        """Say why a document is dropped, if it is."""
        content = document.content or SplitText("")
        if not content.text:
            return Drop("empty")
        return self._check_blocks(content) or self._check_ngrams(content)

    def _check_blocks(self, content: SplitText) -> Drop | None:
        config, n_chars = self._config, len(content.text)
        for kind in ("paragraph", "line"):
            blocks: list[str] = getattr(content, f"{kind}s")
            max_share = getattr(config, f"max_dup_{kind}s")
            max_chars = getattr(config, f"max_dup_{kind}_chars")
            n_repeated, chars_repeated = count_repeated(blocks)
            if n_repeated > max_share * len(blocks):
                return Drop(f"dup_{kind}s", n_repeated / len(blocks), max_share)
            if chars_repeated > max_chars * n_chars:
                return Drop(f"dup_{kind}_chars", chars_repeated / n_chars, max_chars)
        return None

    def _check_ngrams(self, content: SplitText) -> Drop | None:
        ngrams, n_chars = self._ngrams(content.tokens), len(content.text)
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
