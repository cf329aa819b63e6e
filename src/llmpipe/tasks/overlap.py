"""Do two texts share a run of words? To judge answers, and to keep evaluation sets out of what is trained on.

Words are compared without case and punctuation, and all numbers alike, so that another spacing or
another number does not hide a question.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xxhash

from llmpipe.core.records.lines import whole
from llmpipe.core.records.rows import read_rows

_WORD = re.compile(r"\w+")
_DIGITS = re.compile(r"\d+")


def normalize_words(text: str) -> list[str]:
    """Return the words of a text in lower case, without punctuation, every number as 0."""
    return _WORD.findall(_DIGITS.sub("0", text.lower()))


def is_same_answer(answer: str, expected: str) -> bool:
    """Whether an answer holds the words of the expected one, in order and together."""
    given, wanted = normalize_words(answer), normalize_words(expected)
    starts = range(len(given) - len(wanted) + 1)
    return bool(wanted) and any(given[i : i + len(wanted)] == wanted for i in starts)


def run_hashes(words: list[str], n: int) -> np.ndarray:
    """Return a 64-bit hash of every run of `n` words."""
    if len(words) < n:
        return np.empty(0, np.uint64)
    numbers = {word: xxhash.xxh3_64_intdigest(word.encode()) for word in set(words)}
    hashes = np.array([numbers[word] for word in words], np.uint64)
    combined = np.zeros(len(words) - n + 1, np.uint64)
    for i in range(n):
        combined = combined * np.uint64(0x9E3779B97F4A7C15) + hashes[i : i + len(combined)]
        combined ^= combined >> np.uint64(29)
    return combined


@dataclass(frozen=True)
class Runs:
    """The runs of words of a collection of texts."""

    hashes: dict[int, np.ndarray]
    """Sorted hashes by the length of the run."""

    def find(self, text: str) -> list[str] | None:
        """Return the first run of words that a text shares with the collection."""
        words = normalize_words(text)
        for n, known in self.hashes.items():
            hashes = run_hashes(words, n)
            if not len(hashes):
                continue
            places = np.searchsorted(known, hashes)
            found = np.flatnonzero(known[np.minimum(places, len(known) - 1)] == hashes)
            if len(found):
                start = int(found[0])
                return words[start : start + n]
        return None


def collect_runs(texts: Iterable[str], n_words: int, min_words: int) -> Runs:
    """Hash all runs of `n_words`, and whole texts of `min_words` or more that are shorter."""
    found: dict[int, set[int]] = {}
    for text in texts:
        words = normalize_words(text)
        n = min(n_words, len(words))
        if n >= min_words:
            found.setdefault(n, set()).update(run_hashes(words, n).tolist())
    return Runs({n: np.array(sorted(found[n]), np.uint64) for n in sorted(found)})


def strings_of(path: Path) -> Iterator[str]:
    """Yield every string in the rows of a file; see `core/records/rows.py` for the kinds.

    Raises:
        InputError: it cannot be read, or a row is none.
    """
    for _, row in whole(read_rows(path)):
        yield from _strings_in(row)


def _strings_in(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for inner in value.values():
            yield from _strings_in(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _strings_in(inner)
