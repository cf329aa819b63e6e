r"""Which characters are letters, numbers, marks and so on, as tiktoken's engine sees them.

Python's `unicodedata` knows the Unicode version of the interpreter, Rust's regex engine that of
its release. Where they differ, a splitter of our own would cut a new letter in two. So the classes
are asked from tiktoken itself: it encodes what its pattern matches and drops the rest, so with the
pattern `\p{L}` and a vocabulary of single bytes the ids of all characters are the letters' bytes.
"""

from __future__ import annotations

import functools

import numpy as np

OTHER, LETTER, NUMBER, NEWLINE, SPACE, EDGE = range(6)
"""Punctuation, marks and the rest; letters; numbers; `\r` and `\n`; other whitespace; text's end."""

SEPARATOR = "\ud800"
"""Stands between texts that are split in one go. A lone surrogate is in no valid text."""

_LAST_PLANE = 4
"""Planes 4 to 13 are unassigned, 14 to 16 hold no letter, number or whitespace."""


@functools.lru_cache(maxsize=1)
def class_table() -> np.ndarray:
    """Return the class of every code point, as uint8."""
    table = np.full(0x110000, OTHER, dtype=np.uint8)
    table[members(r"\p{L}")] = LETTER
    table[members(r"\p{N}")] = NUMBER
    table[members(r"\s")] = SPACE
    table[[ord("\r"), ord("\n")]] = NEWLINE
    table[ord(SEPARATOR)] = EDGE
    return table


@functools.lru_cache(maxsize=16)
def members(char_class: str) -> np.ndarray:
    r"""Return the code points that a class such as `\p{Lu}` matches."""
    import tiktoken

    encoding = tiktoken.Encoding(
        "classes",
        pat_str=char_class + "{1,64}",
        mergeable_ranks={bytes([byte]): byte for byte in range(256)},
        special_tokens={},
    )
    # All characters of the planes in use, without the surrogates.
    text = "".join(map(chr, (*range(0xD800), *range(0xE000, _LAST_PLANE * 0x10000))))
    matched = bytes(encoding.encode_ordinary(text)).decode("utf-8")
    return np.frombuffer(matched.encode("utf-32-le"), dtype="<u4").copy()
