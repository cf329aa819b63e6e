"""Which documents are duplicates, decided in one process by keys alone, and the largest clusters for the report.

The web copies itself: licenses, news agencies, mirrors. A model that reads a text a hundred times learns it by heart instead of
learning from it, and pays for a hundred readings, so of all copies one stays.

A corpus step (`url_dedup`, `exact_dedup`, `minhash`) gave every document one key or more in the first pass. Documents that
share a key are duplicates of each other, and so, step by step, are all that hang together by such pairs; of each such
cluster the document with the smallest number stays. `grouping.py` tells how.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from llmpipe.core.units import Executor
from llmpipe.stages.data.config import DataConfig
from llmpipe.stages.data.facts import DocumentFacts
from llmpipe.stages.data.grouping import UNIT_ROWS, cluster, group_in_units
from llmpipe.stages.data.segments import key_columns
from llmpipe.stages.data.steps.table import STEPS

_CLUSTERS_PER_STEP = 5
_DOCUMENTS_PER_CLUSTER = 4


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
    config: DataConfig, facts: DocumentFacts, folder: Path, executor: Executor
) -> Duplicates:
    """Run the corpus steps in the recipe's order, each over the documents that had reached it.

    More than `UNIT_ROWS` documents are grouped by the executor, in `folder`.
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
        members = (position > i_step) & (dropped_by < 0) & (facts.read(f"has_{step}") > 0)
        names = key_columns(config, step)
        if members.sum() <= UNIT_ROWS:
            firsts = cluster(map(facts.read, names), members)  # one column in memory at a time
        else:
            columns = [facts.columns[name] for name in names]
            firsts = group_in_units(columns, members, folder, executor)
        is_duplicate = firsts != np.arange(n)
        dropped_by[is_duplicate] = i_step
        first[is_duplicate] = firsts[is_duplicate]
        counts = np.bincount(firsts, minlength=n)
        sizes[step] = Counter(counts[counts > 1].tolist())
        if step == "minhash":
            cluster_size = counts.astype(np.int32)
    # What stands for a document may itself be a duplicate in a later step: follow to the end.
    while not np.array_equal(first, following := first[first]):
        first = following
    return Duplicates(dropped_by, first, cluster_size, sizes)


@dataclass(frozen=True)
class ClusterExample:
    """A cluster that the report shows."""

    step: str
    n_documents: int
    kept: int
    """Number of the document that stands for it."""
    dropped: tuple[int, ...]
    """Numbers of the first few others."""

    def to_json(self, shown: Mapping[int, Mapping[str, Any]]) -> dict[str, Any]:
        """Return the line of the report's file, from what is shown of each document."""
        dropped = [shown[i] for i in self.dropped]
        return {"step": self.step, "documents": self.n_documents, "kept": shown[self.kept], "dropped": dropped}  # fmt: skip


def choose_clusters(
    steps: Sequence[str], found: Duplicates, is_kept: np.ndarray
) -> list[ClusterExample]:
    """Choose the largest clusters of every step: the steps in order, the largest first.

    Args:
        steps: the steps of the recipe.
        found: the duplicates.
        is_kept: whether each document was kept by the first pass; duplicates among the others are not shown.
    """
    chosen = []
    for i_step, step in enumerate(steps):
        is_of_step = found.dropped_by == i_step
        documents, counts = np.unique(found.first[is_of_step], return_counts=True)
        for i in np.lexsort((documents, -counts))[:_CLUSTERS_PER_STEP]:
            others = np.flatnonzero(is_of_step & is_kept & (found.first == documents[i]))
            dropped = tuple(others[: _DOCUMENTS_PER_CLUSTER - 1].tolist())
            chosen.append(ClusterExample(step, int(counts[i]) + 1, int(documents[i]), dropped))
    return chosen
