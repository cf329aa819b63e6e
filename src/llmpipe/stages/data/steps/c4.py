"""C4's rules: remove bad lines, then drop pages that are bad or have little left.

Source: Raffel et al. 2020, arXiv:1910.10683, section 2.2; details as in datatrove's `c4_filters.py`.
Sentences are counted by their ends instead of with NLTK's model, which needs a download.
"""

from __future__ import annotations

import re

from llmpipe.stages.data.config import C4Config
from llmpipe.stages.data.document import Document, Drop, Text
from llmpipe.stages.data.splitting import count_sentences

_CITATION = re.compile(r"\[\d*\]|\[edit\]|\[citation needed\]")
_TERMINAL = (".", "?", "!", '"', "'")
_POLICY = (
    "terms of use",
    "privacy policy",
    "cookie policy",
    "uses cookies",
    "use of cookies",
    "use cookies",
)


class C4:
    """Remove lines and drop pages by C4's heuristics."""

    def __init__(self, config: C4Config) -> None:
        self._config = config

    def __call__(self, document: Document) -> Drop | None:
        """Clean the lines of a document; say why it is dropped, if it is."""
        config = self._config
        kept, n_sentences = [], 0
        for raw in document.text.splitlines():
            line = raw.strip()
            words = line.split()
            if config.remove_citations:
                line = _CITATION.sub("", line)
            if self._is_unwanted(line, words):
                continue
            lowered = line.lower()
            if config.drop_lorem_ipsum and "lorem ipsum" in lowered:
                return Drop("lorem_ipsum", line[:80])
            if config.remove_javascript_lines and "javascript" in lowered:
                continue
            if config.drop_curly_bracket and "{" in line:
                return Drop("curly_bracket", line[:80])
            if config.remove_policy_lines and any(phrase in lowered for phrase in _POLICY):
                continue
            n_sentences += count_sentences(line)
            kept.append(line)
        if n_sentences < config.min_sentences:
            return Drop("few_sentences", n_sentences, config.min_sentences)
        cleaned = "\n".join(kept).strip()
        if cleaned != document.text:  # else the words that earlier steps have split stay
            document.content = Text(cleaned)
        return None

    def _is_unwanted(self, line: str, words: list[str]) -> bool:
        config = self._config
        if any(len(word) > config.max_word_length for word in words):
            return True
        ends_well = line.endswith(_TERMINAL) and not line.endswith("...")
        if config.require_terminal_punctuation and not ends_well:
            return True
        return len(words) < config.min_words_per_line
