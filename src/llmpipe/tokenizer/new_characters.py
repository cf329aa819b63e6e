"""Characters that gigatoken and tiktoken take for different kinds.

gigatoken 0.10 knows Unicode 17, tiktoken 0.14 knows Unicode 16. So the letters, digits and marks that
came with Unicode 17 are letters, digits and marks to one and unknown signs to the other, and text
with them is split differently. Such text is left to tiktoken. A test compares the two engines on
every code point, so that a release which knows more is noticed.
"""

from __future__ import annotations

import functools

import numpy as np

RANGES = (
    (0x088F, 0x088F), (0x0C5C, 0x0C5C), (0x0CDC, 0x0CDC), (0x1ACF, 0x1ADD), (0x1AE0, 0x1AEB),
    (0xA7CE, 0xA7CF), (0xA7D2, 0xA7D2), (0xA7D4, 0xA7D4), (0xA7F1, 0xA7F1), (0x10940, 0x10959),
    (0x10EC5, 0x10EC7), (0x10EFA, 0x10EFB), (0x11B60, 0x11B67), (0x11DB0, 0x11DDB),
    (0x11DE0, 0x11DE9), (0x16EA0, 0x16EB8), (0x16EBB, 0x16ED3), (0x16FF2, 0x16FF6),
    (0x187F8, 0x187FF), (0x18D09, 0x18D1E), (0x18D80, 0x18DF2), (0x1E6C0, 0x1E6DE),
    (0x1E6E0, 0x1E6F5), (0x1E6FE, 0x1E6FF), (0x2B73A, 0x2B73F), (0x2CEA2, 0x2CEAD),
    (0x323B0, 0x33479),
)  # fmt: skip
"""First and last code points. Source: measured, as the test does it."""

_FIRST_LEAD = 0xE0
"""All of them have three bytes or four in UTF-8, the first of which is at least this."""


def has_new_character(text: str, data: bytes) -> bool:
    """Say whether one of the characters is in a text.

    Args:
        text: valid Unicode.
        data: the same in UTF-8. Looking at two bytes of each long character there rules out nearly
            all texts, at 4 GB/s.
    """
    if len(text) == len(data):
        return False
    values = np.frombuffer(data, dtype=np.uint8)
    leads = np.flatnonzero(values >= _FIRST_LEAD)
    beginnings = values[leads].astype(np.uint16) << 8 | values[leads + 1]
    if not _beginnings()[beginnings].any():
        return False
    chars = np.frombuffer(text.encode("utf-32-le"), dtype="<u4")
    return any(bool(((chars >= first) & (chars <= last)).any()) for first, last in RANGES)


@functools.lru_cache(maxsize=1)
def _beginnings() -> np.ndarray:
    """Return for every two bytes whether one of the characters begins with them."""
    table = np.zeros(1 << 16, dtype=bool)
    for first, last in RANGES:
        for code in (*range(first, last, 64), last):
            table[int.from_bytes(chr(code).encode()[:2], "big")] = True
    return table
