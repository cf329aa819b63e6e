"""Cut runs of words that stood before in the corpus; all of it is done in the second pass, by `substring_units.py`."""

from __future__ import annotations

from typing import Annotated, Literal

from annotated_types import Ge

from llmpipe.core.config import schema
from llmpipe.stages.data.document import Document, Drop
from llmpipe.stages.data.steps.base import Step


@schema
class SubstringsConfig:
    """Cut runs of words that stood before in the corpus, in this or an earlier document.

    Source: Lee et al. 2021, arXiv:2107.06499, section 4.1, and RefinedWeb, arXiv:2306.01116, section 3.3. Both count 50 tokens
    of a vocabulary; here a token is a word or a sign. They cut all copies, here the first one stays.
    """

    min_tokens: Annotated[int, Ge(8)] = 50
    """Fewest words and signs in a row that make a repeated run."""
    action: Literal["cut", "drop"] = "cut"
    """`cut` the run out of the text, or `drop` every document that has one."""
    min_words_left: Annotated[int, Ge(0)] = 50
    """A document of which fewer words are left is dropped. As in `gopher_quality`."""


class Substrings(Step[SubstringsConfig]):
    """Let every document pass."""

    name = "substrings"
    summary = "cut runs of words that stood before"
    scope = "texts"

    def __call__(self, document: Document) -> Drop | None:
        """Keep it: nothing can be decided before the finished texts of all are there."""
        return None
