"""Gopher's quality rules: length, word length, symbols, bullets, letters and stop words.

Source: Rae et al. 2021, arXiv:2112.11446, section A1.1; details as in datatrove's
`gopher_quality_filter.py`, which FineWeb used.
"""

from __future__ import annotations

from llmpipe.stages.data.config import GopherQualityConfig
from llmpipe.stages.data.document import Document, Drop, Text

STOP_WORDS = frozenset(("the", "be", "to", "of", "and", "that", "have", "with"))
_BULLETS = ("•", "-")
_ELLIPSES = ("...", "…")


class GopherQuality:
    """Drop texts that do not look like prose."""

    def __init__(self, config: GopherQualityConfig) -> None:
        self._config = config

    def __call__(self, document: Document) -> Drop | None:
        """Say why a document is dropped, if it is."""
        content = document.content or Text("")
        return (
            self._check_length(content)
            or self._check_symbols(content)
            or self._check_words(content)
        )

    def _check_length(self, content: Text) -> Drop | None:
        config, words = self._config, content.words
        if len(words) < config.min_words:
            return Drop("too_short", len(words), config.min_words)
        if len(words) > config.max_words:
            return Drop("too_long", len(words), config.max_words)
        mean = sum(map(len, words)) / max(1, len(words))
        if mean < config.min_mean_word_length:
            return Drop("short_words", mean, config.min_mean_word_length)
        if mean > config.max_mean_word_length:
            return Drop("long_words", mean, config.max_mean_word_length)
        return None

    def _check_symbols(self, content: Text) -> Drop | None:
        config, text = self._config, content.text
        n_tokens, lines = max(1, len(content.tokens)), text.splitlines() or [""]
        hashes = text.count("#") / n_tokens
        if hashes > config.max_hashes_per_word:
            return Drop("hashes", hashes, config.max_hashes_per_word)
        ellipses = (text.count("...") + text.count("…")) / n_tokens
        if ellipses > config.max_ellipses_per_word:
            return Drop("ellipses", ellipses, config.max_ellipses_per_word)
        bullets = sum(line.lstrip().startswith(_BULLETS) for line in lines) / len(lines)
        if bullets > config.max_bullet_lines:
            return Drop("bullet_lines", bullets, config.max_bullet_lines)
        trailing = sum(line.rstrip().endswith(_ELLIPSES) for line in lines) / len(lines)
        if trailing > config.max_ellipsis_lines:
            return Drop("ellipsis_lines", trailing, config.max_ellipsis_lines)
        return None

    def _check_words(self, content: Text) -> Drop | None:
        config, tokens = self._config, content.tokens
        alpha = sum(token[0].isalpha() or any(map(str.isalpha, token)) for token in tokens) / max(
            1, len(tokens)
        )
        if alpha < config.min_alpha_words:
            return Drop("few_alpha_words", alpha, config.min_alpha_words)
        n_stop = len(STOP_WORDS.intersection(tokens))
        if n_stop < config.min_stop_words:
            return Drop("few_stop_words", n_stop, config.min_stop_words)
        return None
