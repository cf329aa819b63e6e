"""The largest clusters of duplicates, with a few of their documents, for the report."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from llmpipe.core.artifact import atomic_file

_CLUSTERS_PER_STEP = 5
_DOCUMENTS_PER_CLUSTER = 4
_EXCERPT_CHARS = 200


class ClusterExamples:
    """Collects documents of chosen clusters while the corpus is written.

    Args:
        steps: the steps of the recipe.
        dropped_by: per document the index of the step that found it a duplicate, or -1.
        first: per document the one that stands for it.
    """

    def __init__(self, steps: Sequence[str], dropped_by: np.ndarray, first: np.ndarray) -> None:
        self._chosen: dict[tuple[str, int], dict[str, Any]] = {}
        self._clusters_of: dict[int, list[dict[str, Any]]] = {}
        for i_step, step in enumerate(steps):
            found, counts = np.unique(first[dropped_by == i_step], return_counts=True)
            order = np.lexsort((found, -counts))[:_CLUSTERS_PER_STEP]
            for document, n in zip(found[order].tolist(), counts[order].tolist(), strict=True):
                cluster = {"step": step, "documents": n + 1, "kept": {}, "dropped": []}
                self._chosen[step, document] = cluster
                self._clusters_of.setdefault(document, []).append(cluster)

    def note(self, i_document: int, first: int, row: Mapping[str, Any]) -> None:
        """Take up a document if it belongs to a chosen cluster."""
        shown = {
            "id": row["id"],
            "url": row["url"],
            "excerpt": " ".join(row["text"][:_EXCERPT_CHARS].split()),
        }
        if i_document == first:
            for cluster in self._clusters_of.get(first, ()):
                cluster["kept"] = shown
            return
        found = self._chosen.get((row["step"], first))
        if found is not None and len(found["dropped"]) < _DOCUMENTS_PER_CLUSTER - 1:
            found["dropped"].append(shown)

    def write(self, path: Path) -> None:
        """Write one line per cluster, the steps in order and the largest clusters first."""
        with atomic_file(path) as temporary, temporary.open("w", encoding="utf-8") as file:
            for cluster in self._chosen.values():
                file.write(json.dumps(cluster, ensure_ascii=False, sort_keys=True) + "\n")
