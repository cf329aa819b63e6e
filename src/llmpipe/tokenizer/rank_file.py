"""tiktoken's rank file: on each line a token in base64 and its rank."""

from __future__ import annotations

from binascii import a2b_base64, b2a_base64
from collections.abc import Mapping
from functools import partial

from llmpipe.core.errors import InputError

_decode = partial(a2b_base64, strict_mode=True)


def write_ranks(ranks: Mapping[bytes, int]) -> bytes:
    """Return the file's content, in the order of the ranks."""
    by_rank = sorted(ranks, key=ranks.__getitem__)
    return b"".join([b"%b %d\n" % (b2a_base64(t, newline=False), ranks[t]) for t in by_rank])


def read_ranks(content: bytes, name: str) -> dict[bytes, int]:
    """Read the file's content.

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
