"""Documents that share a run of words with an evaluation set are dropped, or the set measures memory.

The runs of all evaluation texts are compiled once to sorted 64-bit hashes in a file that all workers map.
Words are compared as MinHash does: no case, no punctuation, numbers alike.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from annotated_types import Ge, Le

from llmpipe.core.artifact import atomic_file
from llmpipe.core.config import schema
from llmpipe.core.errors import InputError
from llmpipe.stages.data.document import Document, Drop
from llmpipe.stages.data.steps.base import Step

if TYPE_CHECKING:
    from llmpipe.stages.data.config import DataConfig


@schema
class DecontaminationConfig:
    """Drop documents that share a run of words with an evaluation set."""

    files: tuple[str, ...] = ()
    """JSONL files, plain or gz; every string in a line is text that a model may be asked."""
    ngram: Annotated[int, Ge(4), Le(64)] = 13
    """Words of a run. Source: Brown et al. 2020, arXiv:2005.14165, appendix C (13)."""
    min_words: Annotated[int, Ge(4)] = 8
    """A string shorter than `ngram` counts as a whole from this length; shorter ones are chance."""


class DecontaminationFilter(Step[DecontaminationConfig]):
    """Look for runs of evaluation texts."""

    name = "decontamination"
    summary = "drop what evaluation sets contain"

    def __init__(self, table: Path) -> None:
        import numpy as np

        from llmpipe.tasks.overlap import Runs

        data = np.load(table)
        self._runs = Runs({int(n): data["hash"][data["n"] == n] for n in np.unique(data["n"])})

    @classmethod
    def make(cls, config: DataConfig, prepared: Path) -> DecontaminationFilter:
        """Open the compiled runs."""
        return cls(prepared / "evaluations.npy")

    @classmethod
    def files(cls, config: DecontaminationConfig) -> list[str]:
        """List the evaluation sets."""
        return list(config.files)

    @classmethod
    def prepare(cls, config: DecontaminationConfig, prepared: Path) -> None:
        """Write the hashes of all runs of the evaluation texts.

        Raises:
            InputError: a file is missing or no JSONL, or no string in any of them is long enough.
        """
        import numpy as np

        from llmpipe.tasks.overlap import collect_runs, strings_of

        texts = (text for name in config.files for text in strings_of(Path(name)))
        found = collect_runs(texts, config.ngram, config.min_words).hashes
        if not found:
            raise InputError(
                "data.decontamination.files: no text of "
                f"{config.min_words} words in {len(config.files)} files",
            )
        rows = [(value, n) for n in sorted(found) for value in found[n].tolist()]
        with atomic_file(prepared / "evaluations.npy") as path, path.open("wb") as file:
            np.save(file, np.array(rows, dtype=[("hash", "<u8"), ("n", "<u2")]))

    def __call__(self, document: Document) -> Drop | None:
        """Drop a document with a run; the value is the run."""
        run = self._runs.find(document.text)
        return Drop("evaluation_text", " ".join(run), f"{len(run)} words") if run else None
