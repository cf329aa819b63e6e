"""Which documents are duplicates: groups of equal keys, and for MinHash their connected components.

Comparing every pair of a billion documents is out of the question; sorting a billion keys is not. So the question "how
alike are two texts" is turned into "have they an equal key". A MinHash function hashes all n-grams of a text and notes the
smallest hash; two texts have the same minimum with a probability that is their Jaccard similarity J, the share of
n-grams that they have in common. One minimum is noise, so 112 of them are taken in 14 bands of 8, and a band's key is the hash
of its 8 minima. A band agrees with probability J^8, any of the 14 with 1 - (1 - J^8)^14, which is a steep curve:

    J                      0.5    0.6    0.7    0.8    0.9
    taken for duplicates   5 %   21 %   56 %   92 %   99.96 %

Two documents with an equal key in any band are an edge of a graph. If A is like B and B like C, all three are one cluster,
though A and C may share no key: clusters are the connected components. Of each, the document with the smallest number stays.

Components are exact, by hooking to the smaller root and pointer jumping in NumPy (a union-find without a loop over documents).
Bands are handed in one at a time, so memory is one column of keys and one parent per document. A large corpus is grouped in
units, which several machines can share:

    keys of all documents ──> unit (band 0, range 0) ──> edges ─┐
                          ──> unit (band 0, range 1) ──> edges ─┼──> connected components
                          ──> …                                 ┘

Source: Broder 1997, "On the resemblance and containment of documents"; bands as in Leskovec, Rajaraman and Ullman,
"Mining of massive datasets", section 3.4; the numbers are FineWeb's (Penedo et al. 2024, arXiv:2406.17557).
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from llmpipe.core.artifact import hash_file
from llmpipe.core.units import Executor
from llmpipe.stages.data.array_job import FOUND, make_arrays, save_array
from llmpipe.stages.data.facts import Column

UNIT_ROWS = 20_000_000
"""Keys that one unit groups: sorting them takes about 0.6 GB."""
UNION_ROWS = 1_000_000_000
"""Documents whose components one process finds, with 16 bytes for each; of more, they are found in units too."""


def cluster(columns: Iterable[np.ndarray], members: np.ndarray) -> np.ndarray:
    """Return the first of every document's cluster: itself, unless it is a duplicate.

    Args:
        columns: arrays of keys, one per document; documents that share a key in any of them are joined.
        members: a boolean per document: who takes part.
    """
    parent = np.arange(len(members))
    positions = np.flatnonzero(members)
    for keys in columns:
        left, right = equal_pairs(keys[positions])
        parent = union(parent, positions[left], positions[right])
    return parent


def equal_pairs(keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return index pairs (first of the group, other) for every group of equal keys."""
    # Sorting brings equal keys together, and because it is stable the first of a group is the smallest index. A group of n
    # gives n - 1 pairs with its first, not n² / 2: that is enough to connect it. Most keys are alone, so what follows
    # looks only at those that equal the one before.
    order = np.argsort(keys, kind="stable")
    ordered = keys[order]
    places = np.flatnonzero(ordered[1:] == ordered[:-1])
    is_first = np.append(True, np.diff(places) > 1)[: len(places)]
    starts = np.maximum.accumulate(np.where(is_first, places, 0))
    return order[starts], order[places + 1]


def union(parent: np.ndarray, left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Join pairs in a forest in which every document points at the smallest of its component."""
    while len(left):
        left_root, right_root = parent[left], parent[right]
        low, high = np.minimum(left_root, right_root), np.maximum(left_root, right_root)
        differ = low != high
        left, right = low[differ], high[differ]
        # Hook: of several smaller roots that a root meets in this round, it takes the smallest; the other pairs are
        # looked at again in the next one.
        np.minimum.at(parent, right, left)
        # Jump: let everybody point at what its parent points at, until all trees are flat.
        while not np.array_equal(parent, jumped := parent[parent]):
            parent = jumped
    return parent


def edges(column: Column, members: Path, i_part: int, n_parts: int) -> np.ndarray:
    """Return rows (first document of its group, another one) for the equal keys of a column in one range."""
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
) -> np.ndarray:
    """Do what `cluster` does, for more keys than one process should hold.

    A unit takes one column of keys and one range of their values. Equal keys lie in the same range, so no pair is lost.
    """
    n_parts = max(1, -(-int(members.sum()) // unit_rows))
    table = folder / f"members-{columns[0].name}.npy"
    save_array(table, members)
    identity = [hash_file(table), [[column.contents, column.name] for column in columns]]
    payloads = [(column, table, i, n_parts) for column in columns for i in range(n_parts)]
    commits = make_arrays(edges, payloads, identity, folder / "units", executor)
    files = [commit.folder / FOUND for commit in commits]
    parent = np.arange(len(members))
    if len(members) > union_rows:
        for path in find_components(files, len(members), folder / "stars", executor, unit_rows):
            rows = np.load(path)
            parent[rows[:, 0]] = rows[:, 1]
        return parent
    for path in files:
        left, right = np.load(path).T
        parent = union(parent, left, right)
    return parent


# ---------------------------------------------------------- components in units: large star and small star, in turns


def find_components(
    edges: Sequence[Path], n_nodes: int, folder: Path, executor: Executor, unit_nodes: int
) -> list[Path]:
    """Return files of rows (node, smallest node of its component), without the smallest nodes themselves.

    For graphs whose edges no machine wants to hold. The edges are NumPy files of whole numbers from 0 to `n_nodes` - 1.

    An edge is a row (u, v). Each round sends every node's neighbors to the smallest node that it knows of:

        large star   every neighbor of u that is larger than u is joined to the smallest of u and its neighbors
        small star   u and every neighbor that is smaller are joined to the smallest of them

    until nothing changes; then every node of a component hangs on its smallest. A unit holds one range of nodes, so equal work
    can be done on many machines, and the number of rounds grows with the logarithm of the number of nodes.
    Source: Kiveris et al. 2014, "Connected components in MapReduce and beyond", algorithms 1 and 2.
    """
    files, before = tuple(edges), None
    for i_round in itertools.count():
        for star in (large_star, small_star):
            identity = [[path.as_posix() for path in files], i_round]
            payloads = [
                (files, start, start + unit_nodes) for start in range(0, n_nodes, unit_nodes)
            ]
            commits = make_arrays(star, payloads, identity, folder, executor)
            files = tuple(commit.folder / FOUND for commit in commits)
        # Once every component is a star, the next round writes the very same files.
        contents = [commit.record["sha256"] for commit in commits]
        if contents == before:
            break
        before = contents
    return list(files)


def large_star(files: tuple[Path, ...], start: int, stop: int) -> np.ndarray:
    """Do the nodes from `start` to `stop`; returns edges (larger, smaller)."""
    nodes, neighbors, smallest = _neighborhoods(files, start, stop, small_only=False)
    larger = neighbors > nodes
    return _edges(neighbors[larger], smallest[larger])


def small_star(files: tuple[Path, ...], start: int, stop: int) -> np.ndarray:
    """Do the nodes from `start` to `stop`; returns edges (larger, smaller)."""
    nodes, neighbors, smallest = _neighborhoods(files, start, stop, small_only=True)
    return _edges(np.concatenate([neighbors, nodes]), np.concatenate([smallest, smallest]))


def _neighborhoods(
    files: tuple[Path, ...], start: int, stop: int, small_only: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return, for every edge at a node of the range: the node, its neighbor, and the smallest of all around the node."""
    rows = [np.empty((0, 2), np.int64)]
    for path in files:
        edges = np.load(path, mmap_mode="r")
        for ends in (edges, edges[:, ::-1]):
            inside = (ends[:, 0] >= start) & (ends[:, 0] < stop)
            inside &= ends[:, 1] < ends[:, 0] if small_only else ends[:, 1] != ends[:, 0]
            rows.append(np.asarray(ends[inside], np.int64))
    found = np.concatenate(rows)
    found = found[np.lexsort((found[:, 1], found[:, 0]))]
    nodes, neighbors = found[:, 0], found[:, 1]
    _, starts, lengths = np.unique(nodes, return_index=True, return_counts=True)
    smallest = np.minimum(neighbors[starts], nodes[starts])
    return nodes, neighbors, np.repeat(smallest, lengths)


def _edges(larger: np.ndarray, smaller: np.ndarray) -> np.ndarray:
    """Return each edge once, in order, without loops."""
    edges = np.stack([larger, smaller], axis=1)
    return np.unique(edges[larger != smaller], axis=0)
