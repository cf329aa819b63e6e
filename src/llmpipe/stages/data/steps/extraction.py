"""HTML to text by trafilatura (as FineWeb does), by a quick extractor first, or by resiliparse for pages that are all content.

trafilatura's `deduplicate` stays off for good: it keeps state between documents, so what it returns for a
page depends on what the process saw before (the same page five times gave 5 % of its text at the end).
"""

from __future__ import annotations

import logging
from typing import Any, Literal

from llmpipe.core.config import schema
from llmpipe.stages.data.document import Document, Drop, SplitText
from llmpipe.stages.data.steps.base import Step
from llmpipe.stages.data.steps.quick_text import quick_text


@schema
class ExtractionConfig:
    """HTML to text: by trafilatura, or by it only where a simple extractor cannot be trusted."""

    mode: Literal["precision", "fast", "all_text"] = "precision"
    """`precision` as FineWeb (F1 .920 on trafilatura's set), `fast` a simple extractor where the page is plainly an article
    and trafilatura without its fallbacks elsewhere (F1 .910), `all_text` (resiliparse, F1 .70) for pages that are content
    from edge to edge. Measured in docs/results/data.md."""
    skip_elements: tuple[str, ...] = ()
    """CSS selectors whose elements are left out in mode `all_text`."""


class Extraction(Step[ExtractionConfig]):
    """Replace a document's HTML by its text; documents that came as text pass unchanged."""

    name = "extraction"
    summary = "HTML to text"
    needs_text = False

    def __init__(self, config: ExtractionConfig) -> None:
        import trafilatura
        from trafilatura import utils

        from llmpipe.stages.data.steps.fast_xpath import accelerate

        accelerate()
        logging.getLogger("trafilatura").setLevel(logging.CRITICAL)
        self._config = config
        self._trafilatura, self._utils = trafilatura, utils

    def __call__(self, document: Document) -> Drop | None:
        """Extract the text of a page; drop a page without any."""
        if document.html is None:
            return None
        text = clean_text(self._extract(document.html))
        document.page, document.html = document.html, None
        if not text:
            return Drop("no_text")
        document.content = SplitText(text)
        return None

    def _extract(self, html: str) -> str:
        from resiliparse.extract.html2text import extract_plain_text

        if self._config.mode == "all_text":
            return extract_plain_text(
                html,
                main_content=False,
                alt_texts=False,
                links=False,
                skip_elements=list(self._config.skip_elements) or None,
            )
        if self._config.mode == "fast" and (quick := quick_text(html)) is not None:
            return quick
        tree = self._utils.load_html(html)
        if _is_cut(self._utils.HTML_PARSER.error_log):
            return extract_plain_text(html, main_content=True, alt_texts=False, links=False)
        if tree is None:
            return ""
        extracted = self._trafilatura.extract(
            tree,
            fast=self._config.mode == "fast",
            favor_precision=self._config.mode == "precision",
            include_comments=False,
            include_tables=True,
            deduplicate=False,
        )
        return extracted or ""


def _is_cut(error_log: Any) -> bool:
    """Tell from its log whether lxml's parser gave up inside a page and returned what it had.

    libxml2 stops at 256 open elements (one tag that a template never closes is enough) and at texts of 10 MB, and raises
    nothing: see findings/lxml_html_depth.sh. With `huge_tree` it would read on, but trafilatura then takes seconds for a page.
    """
    return any("XML_PARSE_HUGE" in entry.message for entry in error_log.filter_from_fatals())


_CONTROLS: dict[int, str | None] = dict.fromkeys(
    [*range(9), *range(11, 32), *range(127, 160), 0xFEFF, 0x200B]
)
_CONTROLS |= {12: "\n", 133: "\n", 0xA0: " "}


def clean_text(text: str) -> str:
    """Make text storable and plain: no lone surrogates or control signs, LF line ends, no trailing blanks."""
    # A line end is not printable either, and the rest is slow.
    if not all(map(str.isprintable, text.split("\n"))):
        text = text.replace("\r\n", "\n").replace("\r", "\n").translate(_CONTROLS)
        text = text.encode("utf-8", errors="replace").decode("utf-8")
    lines = [line.rstrip() for line in text.split("\n")]
    # Several empty lines in a row mean no more than one.
    kept = [line for i, line in enumerate(lines) if line or (i and lines[i - 1])]
    return "\n".join(kept).strip("\n")
