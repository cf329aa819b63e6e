"""Which documents are duplicates, decided in one process by keys alone.

A corpus step (`url_dedup`, `exact_dedup`, `minhash`) gave every document one key or more in the first pass. Documents that
share a key are duplicates of each other, and so, step by step, are all that hang together by such pairs; of each such
cluster the document with the smallest number stays. `grouping.py` tells how.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from llmpipe.stages.data.config import DataConfig
from llmpipe.stages.data.facts import Facts
from llmpipe.stages.data.grouping import Clusters
from llmpipe.stages.data.steps.table import STEPS


@dataclass(frozen=True)
class Duplicates:
    """What was found, per document in the order of their numbers."""

    dropped_by: np.ndarray
    """Index of the corpus step that found it a duplicate, or -1."""
    first: np.ndarray
    """Number of the document that is kept in its place; itself if it is no duplicate."""
    cluster_size: np.ndarray
    """Number of documents of the MinHash cluster it stands for."""
    sizes: dict[str, Counter[int]]
    """Step -> size of a cluster -> how many such clusters."""


def find_duplicates(
    config: DataConfig, facts: Facts, group: Callable[[str, np.ndarray], Clusters]
) -> Duplicates:
    """Run the corpus steps in the recipe's order, each over the documents that had reached it.

    Args:
        config: settings.
        facts: positions and keys.
        group: finds the clusters of a step among the documents that a boolean each says take part.
    """
    position = facts.read("position").astype(np.int16) - 1
    n = facts.n_documents
    dropped_by = np.full(n, -1, np.int16)
    first = np.arange(n)
    cluster_size = np.ones(n, np.int32)
    sizes = {}
    for i_step, step in enumerate(config.steps):
        if STEPS[step].scope != "corpus":
            continue
        # A document that a later filter drops still takes part here, as it would step by step.
        reached = (position > i_step) & (dropped_by < 0)
        clusters = group(step, reached & (facts.read(f"has_{step}") > 0))
        duplicates = clusters.is_duplicate
        dropped_by[duplicates] = i_step
        first[duplicates] = clusters.first[duplicates]
        found, counts = np.unique(clusters.sizes(), return_counts=True)
        sizes[step] = Counter(dict(zip(found.tolist(), counts.tolist(), strict=True)))
        if step == "minhash":
            cluster_size = np.bincount(clusters.first, minlength=n).astype(np.int32)
    return Duplicates(dropped_by, _follow(first), cluster_size, sizes)


def _follow(first: np.ndarray) -> np.ndarray:
    """What stands for a document may itself be a duplicate in a later step: follow to the end."""
    while not np.array_equal(first, following := first[first]):
        first = following
    return first
