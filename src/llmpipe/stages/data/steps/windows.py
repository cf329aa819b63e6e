"""Runs of words that stood before in the corpus: how they are found in one text, and cut out of it.

A *window* is `n` tokens in a row. Two windows are equal if their 128-bit hashes are; with 10^12 windows the chance that
one differs all the same is below 10^-14. Looking for equal windows among all would take 24 bytes per token, so only the
windows whose *minimizer* is repeated are looked at: the smallest hash among the `k`-grams inside a window, k = n // 2.
Equal windows have equal minimizers, so none is missed, and neighboring windows mostly share theirs, so there are few
(Roberts et al. 2004, "Reducing storage requirements for biological sequence comparison").
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
import xxhash

from llmpipe.stages.data.steps.minhash import mix

TOKEN = re.compile(r"\w+|[^\w\s]")
POSITION_BITS = 26
"""A token's place is `document << 26 | number`; tokens beyond the first 67 million of a document are not looked at."""
# Odd numbers have an inverse modulo 2^64. These are the multipliers of L'Ecuyer and Steele's 64-bit generators
# (L'Ecuyer 1999, table 4; Steele and Vigna 2021, table 6).
_BASES = (0xD1342543DE82EF95, 0x27BB2EE687B0B0FD)
_BLOCK = 1 << 20


@dataclass(frozen=True)
class Windows:
    """The windows of a text, by their first token."""

    minimizers: np.ndarray
    """Token at which the smallest k-gram inside each window begins."""
    grams: np.ndarray
    """Hash of the k-gram at each token."""
    first_hash: np.ndarray
    second_hash: np.ndarray


def find_windows(text: str, n: int) -> Windows:
    """Return the windows of `n` tokens of a text; there are none if it is shorter."""
    tokens = _hash_tokens(text)[: 1 << POSITION_BITS]
    k = n // 2
    grams = _rolling(tokens, k, _BASES[0])
    width = n - k + 1
    count = max(0, len(tokens) - n + 1)
    minimizers = np.empty(count, np.int64)
    if count:
        view = np.lib.stride_tricks.sliding_window_view(grams, width)
        for start in range(0, count, _BLOCK):
            stop = min(count, start + _BLOCK)
            minimizers[start:stop] = view[start:stop].argmin(axis=1) + np.arange(start, stop)
    return Windows(
        minimizers, grams, _rolling(tokens, n, _BASES[0]), _rolling(tokens, n, _BASES[1])
    )


def _hash_tokens(text: str) -> np.ndarray:
    tokens = TOKEN.findall(text)
    hashes = {token: xxhash.xxh3_64_intdigest(token.encode()) for token in set(tokens)}
    return np.fromiter((hashes[token] for token in tokens), np.uint64, len(tokens))


def _rolling(tokens: np.ndarray, n: int, base: int) -> np.ndarray:
    """Return a hash of every `n` tokens in a row: their polynomial in `base` modulo 2^64, mixed."""
    if len(tokens) < n:
        return np.empty(0, np.uint64)
    powers = np.full(len(tokens), base, np.uint64)
    powers[0] = 1
    np.cumprod(powers, out=powers)
    sums = np.concatenate(([np.uint64(0)], np.cumsum(tokens * powers)))
    inverse = np.full(len(tokens), pow(base, -1, 1 << 64), np.uint64)
    inverse[0] = 1
    np.cumprod(inverse, out=inverse)
    return mix((sums[n:] - sums[:-n]) * inverse[: len(tokens) - n + 1])


def cut(text: str, windows: np.ndarray, n: int) -> tuple[str, int]:
    """Remove the tokens of the given windows (by first token); return the rest and how many went.

    White space on one side of a removed run goes with it: that behind it, if there is some before it.
    """
    spans = [match.span() for match in TOKEN.finditer(text)]
    is_cut = np.zeros(len(spans) + 1, np.int64)
    np.add.at(is_cut, windows, 1)
    np.add.at(is_cut, windows + n, -1)
    covered = np.cumsum(is_cut[:-1]) > 0
    edges = np.flatnonzero(np.diff(np.concatenate(([0], covered.astype(np.int8), [0]))))
    parts, end = [], 0
    for first, behind in edges.reshape(-1, 2).tolist():
        before = text[end : spans[first][0]]
        end = spans[behind][0] if behind < len(spans) else len(text)
        gap = "" if before[-1:].isspace() or not before else text[spans[behind - 1][1] : end] or " "
        parts.append(before + gap)
    return "".join([*parts, text[end:]]).strip(), int(covered.sum())
