"""The largest clusters of duplicates, with a few of their documents, for the report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from llmpipe.stages.data.duplicates import Duplicates

_CLUSTERS_PER_STEP = 5
_DOCUMENTS_PER_CLUSTER = 4
_EXCERPT_CHARS = 200


@dataclass(frozen=True)
class ClusterExample:
    """A cluster that is shown."""

    step: str
    n_documents: int
    kept: int
    """Number of the document that stands for it."""
    dropped: tuple[int, ...]
    """Numbers of the first few others."""

    def to_json(self, shown: Mapping[int, Mapping[str, Any]]) -> dict[str, Any]:
        """Return the line of the report's file, with what `show` made of the documents."""
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


def show(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return what is shown of a document."""
    excerpt = " ".join(row["text"][:_EXCERPT_CHARS].split())
    return {"id": row["id"], "url": row["url"], "excerpt": excerpt}
