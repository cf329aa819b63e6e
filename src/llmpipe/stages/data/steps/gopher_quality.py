"""Gopher's quality rules: length, word length, symbols, bullets, letters and stop words.

Source: Rae et al. 2021, arXiv:2112.11446, section A1.1; details as in datatrove's
`gopher_quality_filter.py`, which FineWeb used.
"""

from __future__ import annotations

from typing import Annotated

from annotated_types import Ge, Gt

from llmpipe.core.config import schema
from llmpipe.stages.data.document import Document, Drop, SplitText, at_least, at_most
from llmpipe.stages.data.steps.base import Fraction, Step

STOP_WORDS = frozenset(("the", "be", "to", "of", "and", "that", "have", "with"))
_BULLETS = ("•", "-")
_ELLIPSES = ("...", "…")


@schema
class GopherQualityConfig:
    """Drop texts that do not look like prose. Source: arXiv:2112.11446, section A1.1, if nothing else is named."""

    min_words: Annotated[int, Ge(0)] = 50
    """Fewest words, punctuation not counted."""
    max_words: Annotated[int, Gt(0)] = 100_000
    """Most words."""
    min_mean_word_length: Annotated[float, Ge(0)] = 3.0
    """Lowest mean length of words, in characters."""
    max_mean_word_length: Annotated[float, Gt(0)] = 10.0
    """Highest mean length."""
    max_hashes_per_word: Annotated[float, Ge(0)] = 0.1
    """Most `#` per word."""
    max_ellipses_per_word: Annotated[float, Ge(0)] = 0.1
    """Most `...` or `…` per word."""
    max_bullet_lines: Fraction = 0.9
    """Share of lines that begin with a bullet or a hyphen."""
    max_ellipsis_lines: Fraction = 0.3
    """Share of lines that end with an ellipsis."""
    min_alpha_words: Fraction = 0.8
    """Share of words with a letter; as in datatrove, punctuation counts as words here, which is
    stricter than the paper."""
    min_stop_words: Annotated[int, Ge(0)] = 2
    """Fewest different ones of: the, be, to, of, and, that, have, with."""


class GopherQuality(Step[GopherQualityConfig]):
    """Drop texts that do not look like prose."""

    name = "gopher_quality"
    summary = "drop texts that are no prose"

    def __call__(self, document: Document) -> Drop | None:
        """Say why a document is dropped, if it is."""
        content = document.content or SplitText("")
        return (
            self._check_length(content)
            or self._check_symbols(content)
            or self._check_words(content)
        )

    def _check_length(self, content: SplitText) -> Drop | None:
        config, n = self._config, len(content.words)
        mean = sum(map(len, content.words)) / max(1, n)
        return (
            at_least("too_short", n, config.min_words)
            or at_most("too_long", n, config.max_words)
            or at_least("short_words", mean, config.min_mean_word_length)
            or at_most("long_words", mean, config.max_mean_word_length)
        )

    def _check_symbols(self, content: SplitText) -> Drop | None:
        config, text = self._config, content.text
        n_tokens, lines = max(1, len(content.tokens)), text.splitlines() or [""]
        hashes = text.count("#") / n_tokens
        ellipses = (text.count("...") + text.count("…")) / n_tokens
        bullets = sum(line.lstrip().startswith(_BULLETS) for line in lines) / len(lines)
        trailing = sum(line.rstrip().endswith(_ELLIPSES) for line in lines) / len(lines)
        return (
            at_most("hashes", hashes, config.max_hashes_per_word)
            or at_most("ellipses", ellipses, config.max_ellipses_per_word)
            or at_most("bullet_lines", bullets, config.max_bullet_lines)
            or at_most("ellipsis_lines", trailing, config.max_ellipsis_lines)
        )

    def _check_words(self, content: SplitText) -> Drop | None:
        config, tokens = self._config, content.tokens
        n_alpha = sum(token[0].isalpha() or any(map(str.isalpha, token)) for token in tokens)
        n_stop = len(STOP_WORDS.intersection(tokens))
        return at_least(
            "few_alpha_words", n_alpha / max(1, len(tokens)), config.min_alpha_words
        ) or at_least("few_stop_words", n_stop, config.min_stop_words)
