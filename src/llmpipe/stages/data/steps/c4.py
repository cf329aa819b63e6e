"""C4's rules: remove bad lines, then drop pages that are bad or have little left.

Source: Raffel et al. 2020, arXiv:1910.10683, section 2.2; details as in datatrove's `c4_filters.py`.
Sentences are counted by their ends instead of with NLTK's model, which needs a download.
"""

from __future__ import annotations

import re
from typing import Annotated

from annotated_types import Ge, Gt

from llmpipe.core.config import schema
from llmpipe.stages.data.document import Document, Drop, SplitText
from llmpipe.stages.data.splitting import count_sentences
from llmpipe.stages.data.steps.base import Step

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


@schema
class C4Config:
    """C4's rules: clean lines, then drop pages.

    Source: Raffel et al. 2020, arXiv:1910.10683, section 2.2, and datatrove `c4_filters.py`; FineWeb
    leaves the terminal-punctuation rule out.
    """

    require_terminal_punctuation: bool = False
    """Remove lines that do not end in . ? ! " or '. Alone it costs 30 % of tokens (FineWeb, section 3.5)."""
    min_words_per_line: Annotated[int, Ge(0)] = 3
    """Shorter lines are removed."""
    max_word_length: Annotated[int, Gt(0)] = 1_000
    """Lines with a longer word are removed."""
    remove_citations: bool = True
    """Remove [1], [edit] and [citation needed]."""
    remove_javascript_lines: bool = True
    """Remove lines that mention javascript."""
    remove_policy_lines: bool = True
    """Remove lines about cookies, privacy policy and terms of use."""
    drop_lorem_ipsum: bool = True
    """Drop pages with placeholder text."""
    drop_curly_bracket: bool = True
    """Drop pages with `{`, which is mostly code (2.8 % of tokens, FineWeb section 3.5)."""
    min_sentences: Annotated[int, Ge(0)] = 5
    """Fewest sentences in what is left."""


class C4(Step[C4Config]):
    """Remove lines and drop pages by C4's heuristics."""

    name = "c4"
    summary = "clean lines; drop placeholder pages, code and stubs"

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
            document.content = SplitText(cleaned)
        return None

    def _is_unwanted(self, line: str, words: list[str]) -> bool:
        config = self._config
        ends_well = line.endswith(_TERMINAL) and not line.endswith("...")
        return (
            any(len(word) > config.max_word_length for word in words)
            or (config.require_terminal_punctuation and not ends_well)
            or len(words) < config.min_words_per_line
        )
