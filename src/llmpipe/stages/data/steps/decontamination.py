"""Documents that share a run of words with an evaluation set are dropped, or the set measures memory.

The runs of all evaluation texts are compiled once to sorted 64-bit hashes in a file that all workers map.
Words are compared as MinHash does: no case, no punctuation, numbers alike.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from llmpipe.core.artifact import atomic_file
from llmpipe.core.errors import InputError
from llmpipe.stages.data.config import DecontaminationConfig
from llmpipe.stages.data.document import Document, Drop
from llmpipe.tasks.overlap import Runs, collect_runs, strings_of


class Decontamination:
    """Look for runs of evaluation texts."""

    def __init__(self, config: DecontaminationConfig, table: Path) -> None:
        data = np.load(table)
        self._runs = Runs({int(n): data["hash"][data["n"] == n] for n in np.unique(data["n"])})

    def __call__(self, document: Document) -> Drop | None:
        """Drop a document with a run; the value is the run."""
        run = self._runs.find(document.text)
        return Drop("evaluation_text", " ".join(run), f"{len(run)} words") if run else None


def compile_evaluations(config: DecontaminationConfig, table: Path) -> None:
    """Write the hashes of all runs of the evaluation texts.

    Raises:
        InputError: a file is missing or no JSONL, or no string in any of them is long enough.
    """
    texts = (text for name in config.files for text in strings_of(Path(name)))
    found = collect_runs(texts, config.ngram, config.min_words).hashes
    if not found:
        raise InputError(
            "data.decontamination.files: no text of "
            f"{config.min_words} words in {len(config.files)} files",
        )
    rows = [(value, n) for n in sorted(found) for value in found[n].tolist()]
    with atomic_file(table) as path, path.open("wb") as file:
        np.save(file, np.array(rows, dtype=[("hash", "<u8"), ("n", "<u2")]))
