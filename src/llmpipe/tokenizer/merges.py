"""Ranks and merges: two ways to write one vocabulary, and tiktoken's file of ranks.

tiktoken keeps ranks (each token's bytes with its place in the order of learning) and merges any
two neighbors whose joint bytes have a rank, lowest first. Hugging Face keeps the list of pairs.
The pair that made a token is found by encoding the token's own bytes with lower ranks alone: what
is left are its two parts. So each form gives the other, and nothing is lost.
"""

from __future__ import annotations

import itertools
from binascii import a2b_base64, b2a_base64
from collections.abc import Mapping
from functools import partial

from llmpipe.core.errors import InputError

Merge = tuple[bytes, bytes]

_decode = partial(a2b_base64, strict_mode=True)


def bpe_parts(ranks: Mapping[bytes, int], token: bytes, below: int) -> list[bytes]:
    """Merge the bytes of `token` with the ranks lower than `below`; return what is left."""
    bounds = list(range(len(token) + 1))
    pairs = [ranks.get(token[i : i + 2], below) for i in range(len(token) - 1)]
    while pairs and (lowest := min(pairs)) < below:
        i = pairs.index(lowest)
        del pairs[i], bounds[i + 1]
        if i > 0:
            pairs[i - 1] = ranks.get(token[bounds[i - 1] : bounds[i + 1]], below)
        if i < len(pairs):
            pairs[i] = ranks.get(token[bounds[i] : bounds[i + 2]], below)
    return [token[start:end] for start, end in itertools.pairwise(bounds)]


def merges_of(ranks: Mapping[bytes, int]) -> list[Merge]:
    """Return the merges of a vocabulary in the order in which they were learned.

    A few published vocabularies (Llama 3's) hold tokens that no merge makes: tiktoken gives them
    only to a piece of text that is such a token as a whole. They have no merge here, and
    `tokenizer.json` says `ignore_merges`, which means the same.
    """
    merges: list[Merge] = []
    for token, rank in sorted(ranks.items(), key=lambda item: item[1]):
        if len(token) > 1:
            parts = bpe_parts(ranks, token, below=rank)
            if len(parts) == 2:
                merges.append((parts[0], parts[1]))
    return merges


def check_ranks(ranks: Mapping[bytes, int]) -> None:
    """Check that `ranks` is a byte-level vocabulary with ids 0 to n - 1.

    Raises:
        InputError: naming the first thing that is wrong.
    """
    missing = [b for b in range(256) if bytes([b]) not in ranks]
    if missing:
        raise InputError(
            f"the vocabulary lacks {len(missing)} of the 256 single bytes, first {missing[0]:#04x}"
        )
    ids = sorted(ranks.values())
    for expected, found in enumerate(ids):
        if found != expected:
            raise InputError(
                f"the vocabulary's ids have a gap or a repeat: {expected} expected, {found} came"
            )


def write_ranks(ranks: Mapping[bytes, int]) -> bytes:
    """Return what a rank file holds: on each line a token in base64 and its rank, in order."""
    by_rank = sorted(ranks, key=ranks.__getitem__)
    return b"".join([b"%b %d\n" % (b2a_base64(t, newline=False), ranks[t]) for t in by_rank])


def read_ranks(content: bytes, name: str) -> dict[bytes, int]:
    """Read what a rank file holds.

    Raises:
        InputError: naming the first line that is wrong, as one of the file `name`.
    """
    words = content.split()
    try:
        ranks = dict(zip(map(_decode, words[::2]), map(int, words[1::2]), strict=True))
    except ValueError:
        ranks = {}
    lines = content.splitlines()
    if len(words) == 2 * len(lines) and len(ranks) == len(lines):
        return ranks
    # Something is wrong, or a line is empty: one by one, to say where.
    return dict(_read_line(line, f"{name}:{n}") for n, line in enumerate(lines, start=1) if line)


def _read_line(line: bytes, where: str) -> tuple[bytes, int]:
    try:
        token, rank = line.split()
        return _decode(token), int(rank)
    except ValueError as error:
        raise InputError(f"{where}: a token in base64 and its rank are needed") from error
