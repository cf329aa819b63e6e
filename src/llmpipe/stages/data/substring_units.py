"""Repeated substrings over a whole corpus, in four passes of units; each holds one input file or one range of hashes.

    sample      every file             ──> hashes of its minimizers
    recur       every range of hashes  ──> those that occur more than once
    candidates  every file             ──> its windows over such minimizers: hash, place
    repeats     every range of hashes  ──> places of windows of which an equal one stood before

"Before" is in the order of the documents, so a run of words stays where it stands first. A window that overlaps its own
first occurrence does not count: a text that repeats one word keeps `n` of them, and Gopher's rules judge the rest.

A *window* is `n` tokens in a row. Two windows are equal if their 128-bit hashes are; with 10^12 windows the chance that
one differs all the same is below 10^-14. Looking for equal windows among all would take 24 bytes per token, so only the
windows whose *minimizer* is repeated are looked at: the smallest hash among the `k`-grams inside a window, k = n // 2.
Equal windows have equal minimizers, so none is missed, and neighboring windows mostly share theirs, so there are few
(Roberts et al. 2004, "Reducing storage requirements for biological sequence comparison").
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import xxhash

from llmpipe.core.artifact import hash_file
from llmpipe.core.config import digest
from llmpipe.core.units import Commit, Executor
from llmpipe.stages.data.array_job import FOUND, make_arrays, save_array
from llmpipe.stages.data.document import SplitText
from llmpipe.stages.data.facts import Segment
from llmpipe.stages.data.grouping import UNIT_ROWS, in_range
from llmpipe.stages.data.segments import change_rows, drop_row, read_segments
from llmpipe.stages.data.steps.minhash import mix
from llmpipe.stages.data.steps.substrings import SubstringsConfig

TOKEN = re.compile(r"\w+|[^\w\s]")
POSITION_BITS = 26
"""A token's place is `document << 26 | number`; tokens beyond the first 67 million of a document are not looked at."""
# Odd numbers have an inverse modulo 2^64. These are the multipliers of L'Ecuyer and Steele's 64-bit generators
# (L'Ecuyer 1999, table 4; Steele and Vigna 2021, table 6).
_BASES = (0xD1342543DE82EF95, 0x27BB2EE687B0B0FD)
_BLOCK = 1 << 20


def find_repeats(
    parts: Sequence[Sequence[Segment]],
    members: np.ndarray,
    n: int,
    folder: Path,
    executor: Executor,
    unit_rows: int = UNIT_ROWS,
) -> np.ndarray:
    """Return the places of all windows of `n` tokens that are to go, in order.

    Args:
        parts: the segments of each input file, in key order.
        members: a boolean per document: who takes part.
        n: tokens of a window.
        folder: for the work in between.
        unit_rows: hashes that one unit sorts.
    """
    table = folder / "members.npy"
    save_array(table, members)
    identity = digest([hash_file(table), [part[0].unit_id for part in parts], n, unit_rows])

    def run(work: Callable[..., np.ndarray], payloads: Iterable[tuple[Any, ...]]) -> list[Commit]:
        return make_arrays(work, list(payloads), identity, folder / "units", executor)

    def ranges(commits: Sequence[Commit]) -> Iterator[tuple[Any, ...]]:
        files = tuple(commit.folder / FOUND for commit in commits)
        n_rows = sum(commit.record["rows"] for commit in commits)
        n_parts = max(1, -(-n_rows // unit_rows))
        return ((files, i, n_parts) for i in range(n_parts))

    sampled = run(sample, ((part, table, n) for part in parts))
    hashes = tuple(commit.folder / FOUND for commit in run(recur, ranges(sampled)))
    found = run(candidates, ((part, table, n, hashes) for part in parts))
    repeated = run(repeats, ((*payload, n) for payload in ranges(found)))
    places = [np.load(commit.folder / FOUND) for commit in repeated]
    return np.sort(np.concatenate(places))


class Cutter:
    """Changes the rows of documents that hold repeated runs; `places` are those of the windows, in order."""

    def __init__(self, config: SubstringsConfig, places: np.ndarray) -> None:
        self._config = config
        self._documents = places >> POSITION_BITS
        self._tokens = places & ((1 << POSITION_BITS) - 1)
        self.n_cut = 0
        self.n_tokens = 0

    def cut_rows(self, start: int, rows: pa.Table) -> pa.Table:
        """Return rows, of which the first has the number `start`, without their repeated runs."""
        first, behind = np.searchsorted(self._documents, [start, start + len(rows)])
        changes = {}
        for i in np.unique(self._documents[first:behind]).tolist():
            windows = self._tokens[slice(*np.searchsorted(self._documents, [i, i + 1]))]
            changes[i - start] = self._change(rows["text"][i - start].as_py(), windows)
        return change_rows(rows, changes)

    def _change(self, text: str, windows: np.ndarray) -> dict[str, Any]:
        """Return the columns of a document's row that change."""
        config = self._config
        rest, n_tokens = cut(text, windows, config.min_tokens)
        self.n_tokens += n_tokens
        if config.action == "drop":
            return drop_row("substrings", "repeated_run", str(n_tokens), str(config.min_tokens))
        n_words, bound = len(SplitText(rest).words), config.min_words_left
        if n_words < bound:
            return drop_row("substrings", "too_little_left", str(n_words), str(bound))
        self.n_cut += 1
        return {"text": rest, "n_words": n_words}


# ------------------------------------------------------------------------------------------------------- the passes


def sample(part: Sequence[Segment], members: Path, n: int) -> np.ndarray:
    """Return the minimizers' hashes of one file, once per place where one stands."""
    found = [np.empty(0, np.uint64)]
    for _, text in _texts(part, members):
        grams, minimizers = _find_minimizers(_hash_tokens(text), n)
        found.append(grams[np.unique(minimizers)])
    return np.concatenate(found)


def recur(files: tuple[Path, ...], i_part: int, n_parts: int) -> np.ndarray:
    """Return the hashes of one range that occur more than once, sorted."""
    hashes = np.concatenate([_load_range(path, i_part, n_parts) for path in files])
    found, counts = np.unique(hashes, return_counts=True)
    return found[counts > 1]


def candidates(
    part: Sequence[Segment], members: Path, n: int, recurring: tuple[Path, ...]
) -> np.ndarray:
    """Return (hash, second hash, place) of the windows of one file that can be repeated."""
    # A later range holds larger hashes, so one after the other they are sorted.
    known = np.concatenate([np.load(path) for path in recurring])
    found = [np.empty((0, 3), np.uint64)]
    for i_document, text in _texts(part, members):
        tokens = _hash_tokens(text)
        grams, minimizers = _find_minimizers(tokens, n)
        places = np.flatnonzero(_is_in(grams[minimizers], known))
        keys = (np.uint64(i_document) << np.uint64(POSITION_BITS)) + places.astype(np.uint64)
        hashes = [_rolling(tokens, n, base)[places] for base in _BASES]
        found.append(np.stack([*hashes, keys], axis=1))
    return np.concatenate(found)


def repeats(files: tuple[Path, ...], i_part: int, n_parts: int, n: int) -> np.ndarray:
    """Return the places of the windows in one range of hashes of which an equal one stood before."""
    rows = np.concatenate([_load_range(path, i_part, n_parts) for path in files])
    rows = rows[np.lexsort((rows[:, 2], rows[:, 1], rows[:, 0]))]
    if not len(rows):
        return np.empty(0, np.int64)
    is_new = np.concatenate(([True], (rows[1:, :2] != rows[:-1, :2]).any(axis=1)))
    starts = np.flatnonzero(is_new)
    first = np.repeat(rows[starts, 2], np.diff(np.append(starts, len(rows))))
    # Places in different documents are always far apart, because the document stands in the upper bits.
    places: np.ndarray = rows[rows[:, 2] - first >= np.uint64(n), 2].astype(np.int64)
    return places


def _texts(part: Sequence[Segment], members: Path) -> Iterator[tuple[int, str]]:
    takes_part = np.load(members, mmap_mode="r")
    i_document = part[0].start
    for table in read_segments([segment.path for segment in part], ["text"]):
        inside = np.flatnonzero(takes_part[i_document : i_document + len(table)])
        for i, text in zip(inside.tolist(), table["text"].take(inside), strict=True):
            yield i_document + i, text.as_py()
        i_document += len(table)


def _load_range(path: Path, i_part: int, n_parts: int) -> np.ndarray:
    """Return the hashes of one range, or the rows that begin with one."""
    rows = np.load(path, mmap_mode="r")
    hashes = np.asarray(rows if rows.ndim == 1 else rows[:, 0])
    return np.asarray(rows[in_range(hashes, i_part, n_parts)])


def _is_in(hashes: np.ndarray, known: np.ndarray) -> np.ndarray:
    if not len(known):
        return np.zeros(len(hashes), bool)
    places = np.minimum(np.searchsorted(known, hashes), len(known) - 1)
    return np.asarray(known[places] == hashes)


# -------------------------------------------------------------------------------------------------- one text


def _find_minimizers(tokens: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the hash of the k-gram at each token, and where inside each window of `n` tokens the smallest begins."""
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
    return grams, minimizers


def _hash_tokens(text: str) -> np.ndarray:
    tokens = TOKEN.findall(text)[: 1 << POSITION_BITS]
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
