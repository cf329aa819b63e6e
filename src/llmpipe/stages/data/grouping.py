"""Which documents are duplicates: groups of equal keys, and for MinHash their connected components.

Components are exact, by hooking to the smaller root and pointer jumping in NumPy. Bands are handed in one
at a time, so memory is one column of keys and one parent per document.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Clusters:
    """For every document the first of its cluster: itself, unless it is a duplicate."""

    first: np.ndarray

    @property
    def is_duplicate(self) -> np.ndarray:
        """True for all documents of a cluster but the first."""
        duplicates: np.ndarray = self.first != np.arange(len(self.first))
        return duplicates

    def sizes(self) -> np.ndarray:
        """Sizes of the clusters of two or more, largest first."""
        counts = np.bincount(self.first, minlength=1)
        return np.sort(counts[counts > 1])[::-1]


def cluster(n: int, columns: Iterable[np.ndarray], members: np.ndarray) -> Clusters:
    """Join documents that share a key in any column.

    Args:
        n: number of documents, in key order.
        columns: arrays of n keys.
        members: n booleans; only these documents take part.
    """
    parent = np.arange(n)
    positions = np.flatnonzero(members)
    for keys in columns:
        left, right = equal_pairs(keys[positions])
        parent = union(parent, positions[left], positions[right])
    return Clusters(parent)


def equal_pairs(keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return index pairs (first of the group, other) for every group of equal keys."""
    order = np.argsort(keys, kind="stable")
    ordered = keys[order]
    starts = (
        np.flatnonzero(np.concatenate(([True], ordered[1:] != ordered[:-1])))
        if len(keys)
        else order
    )
    lengths = np.diff(np.append(starts, len(keys)))
    firsts = np.repeat(order[starts], lengths)
    is_other = firsts != order
    return firsts[is_other], order[is_other]


def union(parent: np.ndarray, left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Join pairs in a forest in which every document points at the smallest of its component."""
    while len(left):
        left_root, right_root = parent[left], parent[right]
        low, high = np.minimum(left_root, right_root), np.maximum(left_root, right_root)
        differ = low != high
        left, right = low[differ], high[differ]
        np.minimum.at(parent, right, left)
        while not np.array_equal(parent, jumped := parent[parent]):
            parent = jumped
    return parent
