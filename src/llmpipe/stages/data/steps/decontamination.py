"""Documents that share a run of words with an evaluation set are dropped, or the set measures memory.

The runs of all evaluation texts are compiled once to sorted 64-bit hashes in a file that all workers map.
Words are compared as MinHash does: no case, no punctuation, numbers alike.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import xxhash

from llmpipe.core.artifact import atomic_file
from llmpipe.core.errors import InputError
from llmpipe.stages.data.config import DecontaminationConfig
from llmpipe.stages.data.document import Document, Drop
from llmpipe.stages.data.steps.dedup_keys import normalize_words


class Decontamination:
    """Look for runs of evaluation texts."""

    def __init__(self, config: DecontaminationConfig, table: Path) -> None:
        data = np.load(table)
        # Runs of full length first, then those of shorter strings by their length.
        self._runs = {int(n): data["hash"][data["n"] == n] for n in np.unique(data["n"])}

    def __call__(self, document: Document) -> Drop | None:
        """Drop a document with a run; the value is the run."""
        words = normalize_words(document.text)
        for n, known in self._runs.items():
            hashes = run_hashes(words, n)
            if not len(hashes):
                continue
            places = np.searchsorted(known, hashes)
            found = np.flatnonzero(known[np.minimum(places, len(known) - 1)] == hashes)
            if len(found):
                start = int(found[0])
                return Drop("evaluation_text", " ".join(words[start : start + n]), f"{n} words")
        return None


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


def compile_evaluations(config: DecontaminationConfig, table: Path) -> None:
    """Write the hashes of all runs of the evaluation texts.

    Raises:
        InputError: a file is missing or no JSONL, or no string in any of them is long enough.
    """
    found: dict[int, set[int]] = {}
    for name in config.files:
        for text in _strings_of(Path(name)):
            words = normalize_words(text)
            n = min(config.ngram, len(words))
            if n >= config.min_words:
                found.setdefault(n, set()).update(run_hashes(words, n).tolist())
    if not found:
        raise InputError(
            "data.decontamination.files: no text of "
            f"{config.min_words} words in {len(config.files)} files",
        )
    rows = [(value, n) for n in sorted(found) for value in sorted(found[n])]
    with atomic_file(table) as path, path.open("wb") as file:
        np.save(file, np.array(rows, dtype=[("hash", "<u8"), ("n", "<u2")]))


def _strings_of(path: Path) -> Iterator[str]:
    try:
        with (gzip.open if path.suffix == ".gz" else open)(path, "rt", encoding="utf-8") as lines:
            for i, line in enumerate(lines, start=1):
                if line.strip():
                    try:
                        yield from _strings_in(json.loads(line))
                    except ValueError:
                        raise InputError(f"{path}:{i}: no JSON") from None
    except OSError as error:
        raise InputError(f"`{path}` cannot be read: {error.strerror or error}") from None


def _strings_in(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for inner in value.values():
            yield from _strings_in(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _strings_in(inner)
