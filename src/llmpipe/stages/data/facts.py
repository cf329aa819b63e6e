"""The numbers by which the second pass decides: a few per document, each fact of all documents in one piece.

Segments hold a thousand documents with all their columns, and deciding looks at one column of all documents. So a
unit per input file goes through its segments once and lays their columns end to end, as rows of one array:

    position        1 + where among the steps a document was dropped; 0 if it was not read
    minhash_000 …   its keys

Documents are numbered by unit (in the order of content fingerprints), then by record. The number is the key by which
the first of a cluster is kept, so the result depends neither on the number of workers nor on the order of the inputs.
"""

from __future__ import annotations

import itertools
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from llmpipe.core.artifact import hash_file
from llmpipe.core.config import digest
from llmpipe.core.units import Commit, Executor, InPlace, RunUnit, Unit, Watch, run_units
from llmpipe.stages.data.array_job import FOUND, save_array
from llmpipe.stages.data.arrow import prepare_worker
from llmpipe.stages.data.config import DataConfig
from llmpipe.stages.data.segments import (
    KEPT,
    READ,
    UNREADABLE,
    key_columns,
    read_segments,
    segment_paths,
)
from llmpipe.stages.data.steps.table import STEPS

_FEW = 50
"""Segments that are gone through here, sooner than workers would have started."""


@dataclass(frozen=True)
class Segment:
    """A segment with its place in the order of all documents."""

    path: Path
    unit_id: str
    start: int
    """Number of its first document."""


@dataclass(frozen=True)
class Column:
    """One fact of all documents, on disk."""

    name: str
    files: tuple[Path, ...]
    """NumPy arrays of facts x documents, one per unit."""
    row: int
    contents: str
    """Hash of the files."""

    def pieces(self) -> Iterator[np.ndarray]:
        """Return it unit by unit."""
        return (np.array(np.load(path, mmap_mode="r")[self.row]) for path in self.files)


@dataclass
class DocumentFacts:
    """The facts of all documents."""

    columns: dict[str, Column]
    """`position`; `n_bytes` of the text that the steps kept, or 0; `record` in the input file; keys; and `has_STEP`,
    whether a document has keys of that step."""
    segments: list[Segment] = field(default_factory=list)
    n_documents: int = 0
    others: Counter[str] = field(default_factory=Counter)
    """Records that are no documents, by kind."""
    bad_bytes: int = 0

    def read(self, name: str) -> np.ndarray:
        """Return one fact of every document, as 64-bit numbers without sign."""
        found, start = np.empty(self.n_documents, np.uint64), 0
        for piece in self.columns[name].pieces():
            found[start : start + len(piece)] = piece
            start += len(piece)
        return found

    def by_unit(self) -> dict[str, tuple[Segment, ...]]:
        """Return each unit's segments, in order; units without any are left out."""
        groups = itertools.groupby(self.segments, lambda segment: segment.unit_id)
        return {unit_id: tuple(segments) for unit_id, segments in groups}


def gather(
    config: DataConfig, commits: Sequence[Commit], folder: Path, executor: Executor
) -> DocumentFacts:
    """Lay the facts of all documents end to end, from the units of the first pass in key order."""
    steps = [step for step in config.steps if STEPS[step].scope == "corpus"]
    job = FactsJob(config.steps, {step: key_columns(config, step) for step in steps})
    units = []
    for commit in commits:
        paths = segment_paths(commit.folder)
        identity = digest([commit.unit.id, [path.as_posix() for path in paths], config.steps])[:32]
        units.append(Unit(identity, f"facts of {commit.unit.name}", paths))
    is_few = sum(len(unit.payload) for unit in units) <= _FEW
    found = run_units(job, units, folder, InPlace() if is_few else executor)
    files = tuple(commit.folder / FOUND for commit in found)
    contents = digest([commit.record["sha256"] for commit in found])
    columns = {name: Column(name, files, i, contents) for i, name in enumerate(job.names)}
    facts = DocumentFacts(columns)
    for commit, of_unit in zip(commits, found, strict=True):
        for path, n in zip(of_unit.unit.payload, of_unit.record["rows"], strict=True):
            facts.segments.append(Segment(path, commit.unit.id, facts.n_documents))
            facts.n_documents += n
        facts.others.update(of_unit.record["others"])
        facts.bad_bytes += of_unit.record["bad_bytes"]
    return facts


@dataclass(frozen=True)
class FactsJob:
    """Goes through the segments of a unit of the first pass."""

    steps: tuple[str, ...]
    keys: dict[str, list[str]]
    """The corpus steps, each with the columns of its keys."""

    @property
    def key_names(self) -> list[str]:
        """The columns of all keys."""
        return [name for names in self.keys.values() for name in names]

    @property
    def names(self) -> list[str]:
        """The facts, in the order in which they stand in the arrays."""
        return ["position", "n_bytes", "record", *(f"has_{step}" for step in self.keys), *self.key_names]  # fmt: skip

    def open(self) -> RunUnit:
        """Return the function that runs a unit."""
        prepare_worker()
        return self._run

    def _run(self, unit: Unit, folder: Path, watch: Watch) -> dict[str, Any]:
        columns = ["outcome", "step", "n_bytes", "i_record", *self.key_names]
        pieces = [np.empty((len(self.names), 0), np.uint64)]
        rows, others, bad_bytes = [], Counter[str](), 0
        for path in unit.payload:
            counts = json.loads(pq.read_schema(path).metadata[b"counts"])
            others.update(counts["others"])
            bad_bytes += counts["bad_bytes"]
            groups = [self._facts(group) for group in read_segments([path], columns)]
            rows.append(sum(group.shape[1] for group in groups))
            pieces += groups
        save_array(folder / FOUND, np.concatenate(pieces, axis=1))
        sha256 = hash_file(folder / FOUND)
        return {"rows": rows, "sha256": sha256, "others": others, "bad_bytes": bad_bytes}

    def _facts(self, rows: pa.Table) -> np.ndarray:
        is_kept = pc.equal(rows["outcome"], KEPT)
        place = pc.index_in(rows["step"], pa.array([READ, *self.steps]))
        place = pc.if_else(pc.equal(rows["outcome"], UNREADABLE), 0, place)
        found = [
            pc.if_else(is_kept, len(self.steps) + 1, place),
            pc.if_else(is_kept, rows["n_bytes"], 0),
            rows["i_record"],
        ]
        found += [pc.cast(rows[names[0]].is_valid(), pa.uint8()) for names in self.keys.values()]
        found += [pc.fill_null(rows[name], 0) for name in self.key_names]
        return np.stack([column.to_numpy().astype(np.uint64) for column in found])
