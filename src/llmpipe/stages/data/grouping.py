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
Bands are handed in one at a time, so memory is one column of keys and one parent per document.
Source: Broder 1997, "On the resemblance and containment of documents"; bands as in Leskovec, Rajaraman and Ullman,
"Mining of massive datasets", section 3.4; the numbers are FineWeb's (Penedo et al. 2024, arXiv:2406.17557).
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
