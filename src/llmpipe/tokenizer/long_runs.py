r"""Long runs of whitespace, which tiktoken cannot take whole.

A run of about a million whitespace characters overflows the regex engine's
stack in `\s+(?!\S)`, and the panic is a BaseException that prints a backtrace (openai/tiktoken
issues 15 and 245). So such runs are taken out first, at places where the split
pattern would cut too, and the ids stay what they would have been.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from llmpipe.tokenizer.patterns import PATTERNS, WHITESPACE

LONG_RUN = 50_000
"""Characters of whitespace from which a run is cut out. tiktoken fails near 1,000,000; 100,000
pass. Source: measured with tiktoken 0.14."""

_RUN = re.compile(f"[{WHITESPACE}]+")
_TO_LAST_NEWLINE = re.compile(r".*[\r\n]", re.DOTALL)


def cut_long_runs(text: str, pattern: str) -> Iterator[tuple[str, bool]]:
    r"""Cut runs of at least `LONG_RUN` whitespace characters out of `text`.

    Yields `(segment, is_piece)`: segments to be split by the pattern, and between them segments
    that are one piece of the split already. Joined they are `text`.

    Why the split cannot change: look at a run of whitespace with no line break in it, or at the
    part of a run after its last line break. No token before it reaches into it, since the only
    token that ends in whitespace is one that ends in line breaks (` ?[^\s\p{L}\p{N}]+[\r\n]*` and
    `\s*[\r\n]+`). Inside, `\s+(?!\S)` takes all of it, but for the last character when
    something other than a space follows. No pattern looks back, so what comes after is split as
    if the text began there. The pattern `gpt2` gives line breaks no special part, so there the
    whole run counts. A pattern that is not in the table is left alone.
    """
    if pattern not in PATTERNS.values() or len(text) < LONG_RUN:
        yield text, False
        return
    breaks_matter = r"\s*[\r\n]+" in pattern
    ends_together = r"\s+\z" in pattern  # no look ahead there, so no stack that overflows
    start = 0
    for run_start, run_end in _long_runs(text):
        if run_end == len(text) and ends_together:
            continue
        if breaks_matter and (match := _TO_LAST_NEWLINE.match(text, run_start, run_end)):
            run_start = match.end()
        piece_end = run_end - (run_end < len(text))
        if piece_end - run_start < LONG_RUN:
            continue
        if run_start > start:
            yield text[start:run_start], False
        yield text[run_start:piece_end], True
        start = piece_end
    if start < len(text):
        yield text[start:], False


def _long_runs(text: str) -> Iterator[tuple[int, int]]:
    """Find whitespace runs of at least `LONG_RUN` by looking at every `LONG_RUN`-th character."""
    seen = 0
    for i in range(0, len(text), LONG_RUN):
        if i < seen or text[i] not in WHITESPACE:
            continue
        start = i
        while start > seen and text[start - 1] in WHITESPACE:
            start -= 1
        match = _RUN.match(text, start)
        seen = match.end() if match else i
        if seen - start >= LONG_RUN:
            yield start, seen
