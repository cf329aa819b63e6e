"""Repeated substrings over a whole corpus, in four passes of units; each holds one input file or one range of hashes.

    sample      every file             ──> hashes of its minimizers
    recur       every range of hashes  ──> those that occur more than once
    candidates  every file             ──> its windows over such minimizers: hash, place
    repeats     every range of hashes  ──> places of windows of which an equal one stood before

"Before" is in the order of the documents, so a run of words stays where it stands first. A window that overlaps its own
first occurrence does not count: a text that repeats one word keeps `n` of them, and Gopher's rules judge the rest.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from llmpipe.core.artifact import atomic_file, hash_file
from llmpipe.core.config import digest
from llmpipe.core.units import Commit, Executor
from llmpipe.stages.data.array_job import FOUND, make_arrays
from llmpipe.stages.data.document import Text
from llmpipe.stages.data.group_units import UNIT_ROWS, in_range
from llmpipe.stages.data.segments import DROPPED, change_rows, read_segments
from llmpipe.stages.data.steps.substrings import SubstringsConfig
from llmpipe.stages.data.steps.windows import POSITION_BITS, cut, find_windows


@dataclass(frozen=True)
class Part:
    """The segments of one input file, and the number of its first document."""

    id: str
    segments: tuple[Path, ...]
    start: int


def find_repeats(
    parts: Sequence[Part],
    members: np.ndarray,
    n: int,
    folder: Path,
    executor: Executor,
    unit_rows: int = UNIT_ROWS,
) -> np.ndarray:
    """Return the places of all windows of `n` tokens that are to go, in order.

    Args:
        parts: the input files in key order.
        members: a boolean per document: who takes part.
        n: tokens of a window.
        folder: for the work in between.
        executor: where the units run.
        unit_rows: hashes that one unit sorts.
    """
    folder.mkdir(parents=True, exist_ok=True)
    table = folder / "members.npy"
    with atomic_file(table) as path, path.open("wb") as file:
        np.save(file, members)
    identity = digest([hash_file(table), [part.id for part in parts], n, unit_rows])

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
    """Changes the rows of documents that hold repeated runs.

    Args:
        config: settings.
        places: of the windows of all documents, in order.
        start: number of the first document that will be asked for.
        stop: number behind the last.
    """

    def __init__(
        self,
        config: SubstringsConfig,
        places: np.ndarray,
        start: int = 0,
        stop: int = (1 << 37) - 1,
    ) -> None:
        self._config = config
        first, behind = np.searchsorted(places, np.array([start, stop]) << POSITION_BITS)
        found = np.asarray(places[first:behind])
        self._documents = found >> POSITION_BITS
        self._tokens = found & ((1 << POSITION_BITS) - 1)
        self.n_cut = 0
        self.n_tokens = 0

    def cut_rows(self, start: int, rows: pa.Table) -> pa.Table:
        """Return rows, of which the first has the number `start`, without their repeated runs."""
        first, behind = np.searchsorted(self._documents, [start, start + len(rows)])
        changes = {}
        for i in np.unique(self._documents[first:behind]).tolist():
            changes[i - start] = self.changes(i, rows["text"][i - start].as_py())
        return change_rows(rows, changes)

    def changes(self, i_document: int, text: str) -> dict[str, Any]:
        """Return the columns of a document's row that change."""
        first, behind = np.searchsorted(self._documents, [i_document, i_document + 1])
        if first == behind:
            return {}
        rest, n_tokens = cut(text, self._tokens[first:behind], self._config.min_tokens)
        self.n_tokens += n_tokens
        if self._config.action == "drop":
            bound = str(self._config.min_tokens)
            return _dropped("repeated_run", str(n_tokens), bound)
        n_words = len(Text(rest).words)
        if n_words < self._config.min_words_left:
            return _dropped("too_little_left", str(n_words), str(self._config.min_words_left))
        self.n_cut += 1
        return {"text": rest, "n_words": n_words}


def _dropped(reason: str, value: str, threshold: str) -> dict[str, str]:
    return {
        "outcome": DROPPED,
        "step": "substrings",
        "reason": reason,
        "value": value,
        "threshold": threshold,
    }


# ------------------------------------------------------------------------------------------------------- the passes


def sample(part: Part, members: Path, n: int) -> np.ndarray:
    """Return the minimizers' hashes of one file, once per place where one stands."""
    found = [np.empty(0, np.uint64)]
    for _, text in _texts(part, members):
        windows = find_windows(text, n)
        found.append(windows.grams[_unique(windows.minimizers)])
    return np.concatenate(found)


def recur(files: tuple[Path, ...], i_part: int, n_parts: int) -> np.ndarray:
    """Return the hashes of one range that occur more than once, sorted."""
    hashes = np.sort(np.concatenate([_in_range(np.load(path), i_part, n_parts) for path in files]))
    return _unique(hashes[1:][hashes[1:] == hashes[:-1]])


def candidates(part: Part, members: Path, n: int, recurring: tuple[Path, ...]) -> np.ndarray:
    """Return (hash, second hash, place) of the windows of one file that can be repeated."""
    # A later range holds larger hashes, so one after the other they are sorted.
    known = np.concatenate([np.load(path) for path in recurring])
    found = [np.empty((0, 3), np.uint64)]
    for i_document, text in _texts(part, members):
        windows = find_windows(text, n)
        places = np.flatnonzero(_is_in(windows.grams[windows.minimizers], known))
        keys = (np.uint64(i_document) << np.uint64(POSITION_BITS)) + places.astype(np.uint64)
        hashes = (windows.first_hash[places], windows.second_hash[places])
        found.append(np.stack([*hashes, keys], axis=1))
    return np.concatenate(found)


def repeats(files: tuple[Path, ...], i_part: int, n_parts: int, n: int) -> np.ndarray:
    """Return the places of the windows in one range of hashes of which an equal one stood before."""
    rows = np.concatenate([_rows_in_range(path, i_part, n_parts) for path in files])
    rows = rows[np.lexsort((rows[:, 2], rows[:, 1], rows[:, 0]))]
    if not len(rows):
        return np.empty(0, np.int64)
    is_new = np.concatenate(([True], (rows[1:, :2] != rows[:-1, :2]).any(axis=1)))
    starts = np.flatnonzero(is_new)
    first = np.repeat(rows[starts, 2], np.diff(np.append(starts, len(rows))))
    # Places in different documents are always far apart, because the document stands in the upper bits.
    places: np.ndarray = rows[rows[:, 2] - first >= np.uint64(n), 2].astype(np.int64)
    return places


def _texts(part: Part, members: Path) -> Iterator[tuple[int, str]]:
    takes_part = np.load(members, mmap_mode="r")
    i_document = part.start
    for table in read_segments(part.segments, ["text"]):
        inside = np.flatnonzero(takes_part[i_document : i_document + len(table)])
        texts = table["text"].take(inside)
        for i, text in zip(inside.tolist(), texts, strict=True):
            yield i_document + i, text.as_py()
        i_document += len(table)


def _rows_in_range(path: Path, i_part: int, n_parts: int) -> np.ndarray:
    rows = np.load(path, mmap_mode="r")
    inside: np.ndarray = rows[in_range(np.asarray(rows[:, 0]), i_part, n_parts)]
    return inside


def _in_range(hashes: np.ndarray, i_part: int, n_parts: int) -> np.ndarray:
    inside: np.ndarray = hashes[in_range(hashes, i_part, n_parts)]
    return inside


def _is_in(hashes: np.ndarray, known: np.ndarray) -> np.ndarray:
    if not len(known):
        return np.zeros(len(hashes), bool)
    places = np.minimum(np.searchsorted(known, hashes), len(known) - 1)
    inside: np.ndarray = known[places] == hashes
    return inside


def _unique(ordered: np.ndarray) -> np.ndarray:
    return ordered[np.concatenate(([True], ordered[1:] != ordered[:-1]))] if len(ordered) else ordered  # fmt: skip
