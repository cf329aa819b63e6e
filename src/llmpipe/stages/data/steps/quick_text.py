"""A quick extractor that knows when it can be trusted: article pages whose main part is plainly running text.

resiliparse finds the main content of a page five times as fast as trafilatura, with high recall and low precision: menus,
teasers and notices stay in. Here its lines are looked at: long ones that end like sentences are prose. Where prose makes
up most of the main content, what stands before, behind and between it is cut away and the result is trusted;
elsewhere the answer is None, and the caller asks trafilatura.

The bounds were chosen on the two gold sets of docs/results/data.md (1,171 pages), which is therefore not an
independent measurement of them: there three of four pages are trusted.
"""

from __future__ import annotations

from dataclasses import dataclass

_LINE_ENDS = tuple(".!?:;…。\"”’'»)")
_PROSE_CHARS = 40
"""A line this long that ends like a sentence is prose."""
_LONG_CHARS = 100
"""A line this long is prose however it ends."""
_MAX_GAP = 3
"""More lines than this without prose end a block of prose."""
_MIN_BLOCK = 0.3
"""Blocks smaller than this share of the largest are comments, teasers or notices."""
_MIN_PROSE = 0.75
"""Share of the main content's characters in the kept blocks from which the result is trusted."""
_LABEL_CHARS = 15
"""Shorter lines are labels and buttons, and do not count in that share."""
_MIN_CHARS = 200
"""Below this, a page is too short to judge."""
_HEADING_CHARS = 150
"""A line in front of the first block that is shorter than this is its heading."""
_SENTENCE_CHARS = 25
"""Between prose, a line longer than this that ends like a sentence stays."""
_NOTICE_CHARS = 300
"""A line this long is no notice, whatever words are in it."""
_NOTICES = (
    "©", "cookie", "newsletter", "subscribe", "sign up", "all rights reserved", "copyright", "privacy policy",
    "your email", "e-mail address", "log in", "logged in", "javascript", "terms of use", "terms of service",
    "alle rechte", "datenschutz", "advertisement", "affiliate", "read more", "follow us", "click here",
)  # fmt: skip


def quick_text(html: str) -> str | None:
    """Return the text of a page, or None if the page is not plainly an article."""
    from resiliparse.extract.html2text import extract_plain_text

    main = extract_plain_text(html, main_content=True, alt_texts=False, links=False)
    found = trusted_lines([stripped for line in main.split("\n") if (stripped := line.strip())])
    return None if found is None else "\n".join(found)


@dataclass(frozen=True)
class _Block:
    """Lines `first` to `last`, both of them prose, with at most short gaps between."""

    first: int
    last: int
    n_chars: int
    """Characters of its prose."""


def trusted_lines(lines: list[str]) -> list[str] | None:
    """Return the lines of the article, or None if prose does not prevail."""
    is_prose = [_is_prose(line) for line in lines]
    blocks = _blocks(lines, is_prose)
    if not blocks:
        return None
    largest = max(block.n_chars for block in blocks)
    kept = [block for block in blocks if block.n_chars >= _MIN_BLOCK * largest]
    n_chars = sum(length for length in map(len, lines) if length >= _LABEL_CHARS)
    if sum(block.n_chars for block in kept) < _MIN_PROSE * n_chars:
        return None
    found: list[str] = []
    first = kept[0].first
    if first and len(lines[first - 1]) < _HEADING_CHARS:
        found.append(lines[first - 1])
    for block in kept:
        inside = slice(block.first, block.last + 1)
        found += _without_asides(lines[inside], is_prose[inside])
    return found if sum(map(len, found)) >= _MIN_CHARS else None


def _is_prose(line: str) -> bool:
    if len(line) < _LONG_CHARS and not (len(line) >= _PROSE_CHARS and line.endswith(_LINE_ENDS)):
        return False
    return len(line) >= _NOTICE_CHARS or not _is_notice(line)


def _is_notice(line: str) -> bool:
    lowered = line.lower()
    return any(notice in lowered for notice in _NOTICES)


def _blocks(lines: list[str], is_prose: list[bool]) -> list[_Block]:
    blocks: list[_Block] = []
    for i, line in enumerate(lines):
        if not is_prose[i]:
            continue
        if blocks and i - blocks[-1].last <= _MAX_GAP:
            before = blocks.pop()
            blocks.append(_Block(before.first, i, before.n_chars + len(line)))
        else:
            blocks.append(_Block(i, i, len(line)))
    return blocks


def _without_asides(lines: list[str], is_prose: list[bool]) -> list[str]:
    """Leave out runs of two and more short lines; a single one may be a heading."""
    kept: list[str] = []
    run: list[str] = []
    for line, stays in zip(lines, is_prose, strict=True):
        if stays or _is_short_sentence(line):
            kept += run if len(run) == 1 else []
            kept.append(line)
            run = []
        else:
            run.append(line)
    return kept


def _is_short_sentence(line: str) -> bool:
    return len(line) > _SENTENCE_CHARS and line.endswith(_LINE_ENDS) and not _is_notice(line)
