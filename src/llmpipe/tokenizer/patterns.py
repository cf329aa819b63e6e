r"""Named split patterns: how text is cut into pieces before any merge.

Merges never cross a piece's edge, so the pattern decides what a token can be at most: a word with
the space before it, a run of punctuation, one digit. The names are those that llama.cpp, vLLM and
transformers know, which is why a tokenizer trained here opens there.

The patterns are written for engines with lookahead and Unicode classes (Rust's fancy-regex in
tiktoken, Oniguruma in Hugging Face tokenizers). Python's own `re` has no `\p{L}`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from llmpipe.core.errors import UserError, did_you_mean

_CONTRACTIONS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_SIGNS = r"| ?[^\s\p{L}\p{N}]+[\r\n]*"
_SPACES = r"|\s*[\r\n]+|\s+(?!\S)|\s+"
_WORD = r"|[^\r\n\p{L}\p{N}]?\p{L}+"
_UPPER = r"\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}"
_LOWER = r"\p{Ll}\p{Lm}\p{Lo}\p{M}"

PATTERNS: dict[str, str] = {
    # One digit a token, which makes sums learnable for a small model.
    # Source: Qwen/Qwen2 tokenizer.json.
    "qwen2": _CONTRACTIONS + _WORD + r"|\p{N}" + _SIGNS + _SPACES,
    # Source: openai/gpt-2 src/encoder.py.
    "gpt2": r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
    # Up to three digits a token. Source: openai/tiktoken tiktoken_ext/openai_public.py.
    "cl100k": _CONTRACTIONS + _WORD + r"|\p{N}{1,3}" + _SIGNS + r"|\s+\z" + _SPACES,
    # Cuts camelCase and keeps contractions with their word. Source: as cl100k.
    "o200k": (
        rf"[^\r\n\p{{L}}\p{{N}}]?[{_UPPER}]*[{_LOWER}]+{_CONTRACTIONS}?"
        rf"|[^\r\n\p{{L}}\p{{N}}]?[{_UPPER}]+[{_LOWER}]*{_CONTRACTIONS}?"
        r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*" + _SPACES
    ),
    # cl100k, but whitespace at the text's end is cut after its last line break, as within the text.
    # Source: meta-llama/llama3 llama/tokenizer.py.
    "llama3": _CONTRACTIONS + _WORD + r"|\p{N}{1,3}" + _SIGNS + _SPACES,
}

WHITESPACE = (
    "\t\n\x0b\x0c\r \x85\xa0\u1680"
    + "".join(map(chr, range(0x2000, 0x200B)))
    + "\u2028\u2029\u202f\u205f\u3000"
)
r"""What `\s` matches in these patterns: Unicode's White_Space. Python's `\s` has four more."""

LONG_RUN = 50_000
"""Characters of whitespace from which a run is cut out. tiktoken fails near 1,000,000; 100,000
pass. Source: measured with tiktoken 0.14."""

_RUN = re.compile(f"[{WHITESPACE}]+")
_TO_LAST_NEWLINE = re.compile(r".*[\r\n]", re.DOTALL)


def split_pattern(name: str) -> str:
    """Return the pattern called `name`.

    Raises:
        UserError: if there is none of that name.
    """
    if name not in PATTERNS:
        hint = did_you_mean(name, PATTERNS) or f"known: {', '.join(PATTERNS)}"
        raise UserError(f"no split pattern is called `{name}`", hint)
    return PATTERNS[name]


def pattern_name(pattern: str) -> str | None:
    """Return the name of a pattern from the table, else None."""
    return next((name for name, known in PATTERNS.items() if known == pattern), None)


def cut_long_runs(text: str, pattern: str) -> Iterator[tuple[str, bool]]:
    r"""Cut runs of at least `LONG_RUN` whitespace characters out of `text`.

    A run of about a million overflows the stack of tiktoken's regex engine in `\s+(?!\S)`, and the
    panic is a BaseException (openai/tiktoken issues 15 and 245). So such runs are taken out first,
    at places where the split pattern would cut too, and the ids stay what they would have been.

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
