r"""Named split patterns: how text is cut into pieces before any merge.

Merges never cross a piece's edge, so the pattern decides what a token can be at most: a word with
the space before it, a run of punctuation, one digit. The names are those that llama.cpp, vLLM and
transformers know, which is why a tokenizer trained here opens there.

The patterns are written for engines with lookahead and Unicode classes (Rust's fancy-regex in
tiktoken, Oniguruma in Hugging Face tokenizers). Python's own `re` has no `\p{L}`.
"""

from __future__ import annotations

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
