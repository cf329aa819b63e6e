"""Lines that are controls of a page, not content: counters, sign-in prompts, shouting, bare numbers.

Source: RefinedWeb's line-wise corrections, Penedo et al. 2023, arXiv:2306.01116, section G.2. Phrases are
matched in short lines only; the paper's lists are shorter than what it describes, these are ours.
"""

from __future__ import annotations

import re
from typing import Annotated

from annotated_types import Ge

from llmpipe.core.config import schema
from llmpipe.stages.data.document import Document, Drop, SplitText
from llmpipe.stages.data.steps.base import Fraction, Step

_COUNTER = re.compile(
    r"\W*\d[\d.,]*\s?[kKmM]?\s+(?:likes?|shares?|comments?|views?|retweets?|followers?|reviews?|replies|votes?)\W*",
    re.I,
)
_PROMPT = re.compile(
    r"^(?:sign[ -]?(?:in|up)|log[ -]?in|register|subscribe|share (?:this|on)|follow us|click here|skip to)\b"
    r"|(?:read more|see more|load more|continue reading|show all)\W*$"
    r"|\bitems? in (?:your )?(?:cart|basket)\b",
    re.I,
)


@schema
class LineCleaningConfig:
    """Remove lines that are controls of a page, and drop pages made of them.

    Source: RefinedWeb, Penedo et al. 2023, arXiv:2306.01116, section G.2.
    """

    max_upper: Fraction = 0.5
    """Lines with a larger share of capitals among their letters are removed."""
    max_words: Annotated[int, Ge(0)] = 10
    """Only lines up to this length are looked at for the phrases of controls (sign-in, read more, items in cart)."""
    max_removed_words: Fraction = 0.05
    """A page that loses a larger share of its words is dropped."""


class LineCleaning(Step[LineCleaningConfig]):
    """Remove such lines; drop a page that is made of them."""

    name = "line_cleaning"
    summary = "remove lines that are controls of a page"

    def __call__(self, document: Document) -> Drop | None:
        """Clean the lines of a document; say why it is dropped, if it is."""
        kept, n_words, n_removed = [], 0, 0
        for line in document.text.split("\n"):
            size = len(line.split())
            n_words += size
            if line.strip() and self._is_control(line.strip(), size):
                n_removed += size
            else:
                kept.append(line)
        removed = n_removed / max(1, n_words)
        if removed > self._config.max_removed_words:
            return Drop("controls", removed, self._config.max_removed_words)
        if n_removed:
            document.content = SplitText(re.sub(r"\n{3,}", "\n\n", "\n".join(kept)).strip())
        return None

    def _is_control(self, line: str, n_words: int) -> bool:
        letters = [sign for sign in line if sign.isalpha()]
        if not letters or sum(map(str.isupper, letters)) > self._config.max_upper * len(letters):
            return True
        if n_words > self._config.max_words:
            return False
        return bool(_COUNTER.fullmatch(line) or _PROMPT.search(line))
