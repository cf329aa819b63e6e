"""Byte-pair encoding in its shortest honest form, to read and to test against.

Start from bytes. Find the pair of neighbors that occurs most often, say 116 32 ("t" and a space),
give it the next free id, 256, and write 256 wherever 116 32 stood. Repeat: each step makes the
vocabulary one longer and the text shorter. The real trainer (`learner.py`)
learns the same merges thousands of times faster; tests hold it to this one.

Source: Gage 1994, "A new algorithm for data compression"; Sennrich et al. 2016, arXiv:1508.07909.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable, Iterator

Pair = tuple[int, int]


def train(pieces: Iterable[bytes], n_merges: int) -> dict[Pair, int]:
    """Learn merges from pieces of text; no merge crosses a piece's edge.

    Of pairs that are equally frequent the one with the smaller ids is taken.

    Returns:
        Each merged pair with its new id, 256 onwards, in the order learned. Fewer than `n_merges`
        if no pair is left.
    """
    texts = Counter(tuple(piece) for piece in pieces)
    merges: dict[Pair, int] = {}
    while len(merges) < n_merges:
        counts: Counter[Pair] = Counter()
        for ids, times in texts.items():
            for pair in itertools.pairwise(ids):
                counts[pair] += times
        if not counts:
            break
        best = min(counts, key=lambda pair: (-counts[pair], pair))
        merges[best] = 256 + len(merges)
        replaced: Counter[tuple[int, ...]] = Counter()
        for ids, times in texts.items():
            replaced[tuple(replace(ids, best, merges[best]))] += times
        texts = replaced
    return merges


def replace(ids: Iterable[int], pair: Pair, new_id: int) -> list[int]:
    """Write `new_id` wherever `pair` stands, from left to right."""
    out: list[int] = []
    for i in ids:
        if out and (out[-1], i) == pair:
            out[-1] = new_id
        else:
            out.append(i)
    return out


def encode(piece: bytes, merges: dict[Pair, int]) -> list[int]:
    """Apply merges to one piece, the one learned first first."""
    ids = list(piece)
    for pair, new_id in merges.items():
        ids = replace(ids, pair, new_id)
    return ids


def explain(text: str, n_merges: int) -> Iterator[str]:
    """Say what the first merges of `text` are, one line each."""
    ids: list[int] = list(text.encode())
    names = {byte: bytes([byte]) for byte in range(256)}
    yield f"{len(ids)} bytes, 256 symbols"
    for (left, right), new_id in train([bytes(ids)], n_merges).items():
        names[new_id] = names[left] + names[right]
        n_before, ids = len(ids), replace(ids, (left, right), new_id)
        token = names[new_id].decode(errors="replace")
        yield f"{left} {right} → {new_id}  {token!r}  {n_before} → {len(ids)} ids"
