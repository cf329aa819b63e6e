"""A document on its way through the steps, and the words and lines that several steps look at."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from functools import cached_property

from llmpipe.stages.data.splitting import is_word, split_tokens

_PARAGRAPH_BREAK = re.compile(r"\n{2,}")
_LINE_BREAK = re.compile(r"\n+")


class SplitText:
    """A text with its lines and words, each split once and only when asked for."""

    def __init__(self, text: str) -> None:
        self.text = text

    @cached_property
    def tokens(self) -> list[str]:
        """Words and punctuation signs in order: what datatrove calls words."""
        return split_tokens(self.text)

    @cached_property
    def words(self) -> list[str]:
        """Tokens that are not punctuation only."""
        return [token for token in self.tokens if is_word(token)]

    @cached_property
    def lines(self) -> list[str]:
        """Lines that are not empty."""
        return [line for line in _LINE_BREAK.split(self.text) if line.strip()]

    @cached_property
    def paragraphs(self) -> list[str]:
        """Stretches between empty lines."""
        return _PARAGRAPH_BREAK.split(self.text.strip())


@dataclass
class Document:
    """One page. Steps change `content`, and fill in what they find out."""

    url: str
    date: str
    """ISO 8601 as the source has it, or empty."""
    html: str | None = None
    """The decoded page, until extraction."""
    content: SplitText | None = None
    page: str = ""
    """The decoded page after extraction, for examples of what was dropped."""
    lang: str = ""
    lang_score: float = 0.0
    quality: float | None = None
    """Score of the classifier, where a recipe has one."""
    pii: dict[str, int] = field(default_factory=dict)
    keys: dict[str, list[int]] = field(default_factory=dict)
    """Name of a deduplication step -> the 64-bit keys by which equal documents are found."""

    @property
    def text(self) -> str:
        """The extracted text; empty before extraction."""
        return self.content.text if self.content else ""


@dataclass(frozen=True)
class Drop:
    """Why a step drops a document: the rule, what was measured, and the bound it broke."""

    reason: str
    value: float | str = ""
    threshold: float | str = ""


def at_least(reason: str, value: float, bound: float) -> Drop | None:
    """Drop what measures less than a bound."""
    return Drop(reason, value, bound) if value < bound else None


def at_most(reason: str, value: float, bound: float) -> Drop | None:
    """Drop what measures more than a bound."""
    return Drop(reason, value, bound) if value > bound else None


_PAGE_CHARS = 600
_PAGE_MARKS = ("<h1", "<article", "<main", "<body")


def page_excerpt(html: str) -> str:
    """Return what a page's HTML looks like where its content may begin: at the first of the best mark that it has."""
    starts = (html.find(mark, 0, 200_000) for mark in _PAGE_MARKS)
    start = next((start for start in starts if start >= 0), 0)
    return html[start : start + _PAGE_CHARS].encode("utf-8", errors="replace").decode("utf-8")
