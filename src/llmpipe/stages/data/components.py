"""Connected components in units, for graphs whose edges no machine wants to hold: large star and small star, in turns.

An edge is a row (u, v). Each round sends every node's neighbors to the smallest node that it knows of:

    large star   every neighbor of u that is larger than u is joined to the smallest of u and its neighbors
    small star   u and every neighbor that is smaller are joined to the smallest of them

until nothing changes; then every node of a component hangs on its smallest. A unit holds one range of nodes, so equal work
can be done on many machines, and the number of rounds grows with the logarithm of the number of nodes.
Source: Kiveris et al. 2014, "Connected components in MapReduce and beyond", algorithms 1 and 2.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from llmpipe.core.units import Executor
from llmpipe.stages.data.array_job import FOUND, make_arrays


def find_components(
    edges: Sequence[Path], n_nodes: int, folder: Path, executor: Executor, unit_nodes: int
) -> list[Path]:
    """Return files of rows (node, smallest node of its component), without the smallest nodes themselves.

    The edges are NumPy files of whole numbers from 0 to `n_nodes` - 1, one edge a row.
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
