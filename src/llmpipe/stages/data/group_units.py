"""Duplicates of a large corpus, found in units: one band and one range of its keys each.

    keys of all documents ──> unit (band 0, range 0) ──> edges ─┐
                          ──> unit (band 0, range 1) ──> edges ─┼──> connected components
                          ──> …                                 ┘

A unit reads one column of keys, keeps those in its range, and groups at most about `UNIT_ROWS` of them, so its memory does
not grow with the corpus. Equal keys lie in one range, so no pair is lost. Units are committed like all others: a
killed run goes on, and workers on several machines give the same edges. The components are exact: by union-find in one
process, or, for more documents than `UNION_ROWS`, by stars in units (see `components.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from llmpipe.core.artifact import atomic_file, hash_file
from llmpipe.core.units import Executor
from llmpipe.stages.data.array_job import FOUND, make_arrays
from llmpipe.stages.data.components import find_components
from llmpipe.stages.data.facts import Column
from llmpipe.stages.data.grouping import Clusters, equal_pairs, union

UNIT_ROWS = 20_000_000
"""Keys that one unit groups: sorting them takes about 0.6 GB."""
UNION_ROWS = 1_000_000_000
"""Documents whose components one process finds, with 16 bytes for each; of more, they are found in units too."""


def edges(column: Column, members: Path, i_part: int, n_parts: int) -> np.ndarray:
    """Return rows (first document of its group, another one) for the equal keys of a column in one range.

    Args:
        column: the keys.
        members: a boolean per document, as a NumPy file: who takes part.
        i_part: which of the ranges.
        n_parts: how many there are.
    """
    takes_part = np.load(members, mmap_mode="r")
    keys, places = [np.empty(0, np.uint64)], [np.empty(0, np.int64)]
    start = 0
    for found in column.pieces():
        inside = in_range(found, i_part, n_parts) & takes_part[start : start + len(found)]
        keys.append(found[inside])
        places.append(np.flatnonzero(inside) + start)
        start += len(found)
    pairs: np.ndarray = np.concatenate(places)[np.stack(equal_pairs(np.concatenate(keys)), axis=1)]
    return pairs


def in_range(keys: np.ndarray, i_part: int, n_parts: int) -> np.ndarray:
    """Tell which keys lie in a range; keys are hashes, so equal ranges hold about equally many."""
    # The upper 32 bits times n_parts, without the lower 32: the range's number, in whole numbers only.
    part = ((keys >> np.uint64(32)) * np.uint64(n_parts)) >> np.uint64(32)
    inside: np.ndarray = part == np.uint64(i_part)
    return inside


def group_in_units(
    columns: Sequence[Column],
    members: np.ndarray,
    folder: Path,
    executor: Executor,
    unit_rows: int = UNIT_ROWS,
    union_rows: int = UNION_ROWS,
) -> Clusters:
    """Join documents that share a key in any column; see `grouping.cluster`, which gives the same.

    Args:
        columns: 64-bit keys, one per document.
        members: a boolean per document: who takes part.
        folder: for the work in between.
        executor: where the units run.
        unit_rows: keys that one unit groups.
        union_rows: documents whose components this process finds.
    """
    folder.mkdir(parents=True, exist_ok=True)
    n_parts = max(1, -(-int(members.sum()) // unit_rows))
    table = folder / f"members-{columns[0].name}.npy"
    with atomic_file(table) as path, path.open("wb") as file:
        np.save(file, members)
    identity = [hash_file(table), [[column.contents, column.name] for column in columns]]
    payloads = [(column, table, i, n_parts) for column in columns for i in range(n_parts)]
    commits = make_arrays(edges, payloads, identity, folder / "units", executor)
    files = [commit.folder / FOUND for commit in commits]
    parent = np.arange(len(members))
    if len(members) > union_rows:
        for path in find_components(files, len(members), folder / "stars", executor, unit_rows):
            rows = np.load(path)
            parent[rows[:, 0]] = rows[:, 1]
        return Clusters(parent)
    for path in files:
        left, right = np.load(path).T
        parent = union(parent, left, right)
    return Clusters(parent)
