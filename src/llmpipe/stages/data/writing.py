"""The second pass, second half: one part of the corpus, written in a worker from segments and decisions.

A unit is a range of documents whose kept texts fill one part. Its worker goes through the segments one row group at a time, so
what it holds does not grow with the corpus, and does to whole columns what can be done so; a document becomes
Python objects only where a run of words is cut out of it, or where it is shown as an example.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from llmpipe.core.artifact import atomic_file, write_atomic
from llmpipe.core.units import RunUnit, Unit, Watch
from llmpipe.stages.data.account import HOSTS, Account, count_hosts
from llmpipe.stages.data.arrow import prepare_worker
from llmpipe.stages.data.config import DataConfig
from llmpipe.stages.data.facts import Segment
from llmpipe.stages.data.segments import (
    DROPPED,
    EXCERPT_CHARS,
    KEPT,
    READ,
    ROW_GROUP_BYTES,
    RowGroupWriter,
    change_rows,
    drop_row,
    read_segments,
)
from llmpipe.stages.data.substring_units import POSITION_BITS, Cutter

EXAMPLES_PER_REASON = 5
_CLUSTER_EXCERPT_CHARS = 200
PART, DROPPED_PART = "part.parquet", "dropped.parquet"
EXAMPLES, HOST_COUNTS = "examples.jsonl", "hosts.parquet"

CORPUS = pa.schema(
    [
        ("id", pa.string()),
        ("url", pa.string()),
        ("date", pa.string()),
        ("text", pa.string()),
        ("lang", pa.string()),
        ("lang_score", pa.float32()),
        ("quality", pa.float32()),
        ("n_words", pa.int32()),
        ("cluster_size", pa.int32()),
    ]
)
DROPPED_ROWS = pa.schema(
    dict.fromkeys(
        ("id", "url", "date", "step", "reason", "value", "threshold", "excerpt"), pa.string()
    )
)
_READ_COLUMNS = [
    *(name for name in CORPUS.names if name not in ("id", "cluster_size")),
    "i_record", "outcome", "step", "reason", "value", "threshold", "pii", "page",
]  # fmt: skip

DECISION = np.dtype(
    [
        ("dropped_by", np.int16),  # index of the corpus step that found it a duplicate, or -1
        ("cluster_size", np.int32),  # documents of the MinHash cluster it stands for
        ("first_unit", np.int32),  # of the document that stands for it: index of its unit,
        ("first_record", np.int64),  # and its record there
    ]
)
"""What the parent decided about a document."""


@dataclass(frozen=True)
class PartRange:
    """The documents of one part: what a unit's worker needs to know of them."""

    segments: tuple[Segment, ...]
    """All that hold any of them."""
    start: int
    stop: int
    shown: tuple[int, ...]
    """Numbers of those that the report shows as examples of clusters."""


@dataclass(frozen=True)
class WriteJob:
    """Writes parts."""

    config: DataConfig
    unit_ids: tuple[str, ...]
    decisions: Path
    """A `DECISION` per document, as a NumPy file."""
    repeats: Path
    """Places of repeated runs, as a NumPy file; it is there if the recipe cuts them."""

    def open(self) -> RunUnit:
        """Return the function that runs a unit."""
        prepare_worker()
        return self._run

    def _run(self, unit: Unit, folder: Path, watch: Watch) -> dict[str, Any]:
        part: PartRange = unit.payload
        output = _Output(self.config.steps, set(part.shown))
        cutter = None
        if self.repeats.is_file():
            repeats = np.load(self.repeats, mmap_mode="r")
            bounds = np.searchsorted(repeats, np.array([part.start, part.stop]) << POSITION_BITS)
            cutter = Cutter(self.config.substrings, np.asarray(repeats[slice(*bounds)]))
        size = group_bytes(self.config)
        with (
            RowGroupWriter(folder / PART, CORPUS, size, even_empty=False) as kept,
            RowGroupWriter(folder / DROPPED_PART, DROPPED_ROWS, size, even_empty=False) as dropped,
        ):
            for start, rows in self._rows(part, cutter):
                output.take(start, rows)
                _add(kept, rows.filter(pc.equal(rows["outcome"], KEPT)), CORPUS)
                if self.config.keep_dropped:
                    others = rows.filter(pc.equal(rows["outcome"], DROPPED))
                    excerpt = pc.utf8_slice_codeunits(others["text"], 0, EXCERPT_CHARS)
                    _add(dropped, others.append_column("excerpt", excerpt), DROPPED_ROWS)
        if cutter is not None:
            output.account.n_cut, output.account.n_cut_tokens = cutter.n_cut, cutter.n_tokens
        return output.close(folder)

    def _rows(self, part: PartRange, cutter: Cutter | None) -> Iterator[tuple[int, pa.Table]]:
        """Yield the rows of a part with what became of them in the end, and the number of the first."""
        decisions = np.load(self.decisions, mmap_mode="r")
        for segment in part.segments:
            start = segment.start
            for group in read_segments([segment.path], _READ_COLUMNS):
                low, high = max(start, part.start), min(start + len(group), part.stop)
                if low < high:
                    rows = group.slice(low - start, high - low)
                    rows = self._decide(rows, segment.unit_id, np.asarray(decisions[low:high]))
                    rows = rows if cutter is None else cutter.cut_rows(low, rows)
                    sizes = pc.cast(pc.binary_length(rows["text"]), pa.int64())
                    yield low, rows.append_column("n_bytes", sizes)
                start += len(group)

    def _decide(self, rows: pa.Table, unit_id: str, decisions: np.ndarray) -> pa.Table:
        """Give rows their ids, and tell duplicates what they are duplicates of."""
        ids = [document_id(unit_id, i) for i in rows["i_record"].to_pylist()]
        rows = rows.append_column("id", pa.array(ids, pa.string()))
        rows = rows.append_column("cluster_size", pa.array(decisions["cluster_size"]))
        is_kept = pc.equal(rows["outcome"], KEPT).to_numpy()
        places = np.flatnonzero(is_kept & (decisions["dropped_by"] >= 0))
        changes = {}
        for place, found in zip(places.tolist(), decisions[places].tolist(), strict=True):
            step, _, first_unit, first_record = found
            first = document_id(self.unit_ids[first_unit], first_record)
            changes[place] = drop_row(self.config.steps[step], "duplicate", first)
        return change_rows(rows, changes)


def document_id(unit_id: str, i_record: int) -> str:
    """Name a document by the content of its input file and its record number there."""
    return f"{unit_id[:16]}-{i_record:08d}"


def part_bytes(config: DataConfig) -> int:
    """Return how many bytes of text end a part."""
    return config.part_mb * 1_000_000


def group_bytes(config: DataConfig) -> int:
    """Return how many bytes of text end a row group of a part."""
    return min(ROW_GROUP_BYTES, part_bytes(config))


def _add(writer: RowGroupWriter, rows: pa.Table, schema: pa.Schema) -> None:
    writer.add(rows.select(schema.names), rows["n_bytes"].to_numpy())


class _Output:
    """What a unit leaves besides its rows: its account, the hosts, and documents that are shown.

    Args:
        wanted: numbers of the documents that are shown for their cluster.
    """

    def __init__(self, steps: Sequence[str], wanted: set[int]) -> None:
        self.account = Account(steps)
        self._hosts: Counter[str] = Counter()
        self._examples: defaultdict[str, list[dict[str, Any]]] = defaultdict(list)
        self._wanted = wanted
        self._shown: dict[str, dict[str, Any]] = {}

    def take(self, start: int, rows: pa.Table) -> None:
        """Note rows, of which the first has the number `start`."""
        self.account.count(rows)
        is_kept = pc.equal(rows["outcome"], KEPT)
        self._hosts += count_hosts(rows["url"].filter(is_kept))
        self._note_examples(rows.filter(pc.invert(is_kept)))
        for i in sorted(i for i in self._wanted if start <= i < start + len(rows)):
            row = rows.slice(i - start, 1).to_pylist()[0]
            excerpt = " ".join(row["text"][:_CLUSTER_EXCERPT_CHARS].split())
            self._shown[str(i)] = {"id": row["id"], "url": row["url"], "excerpt": excerpt}

    def _note_examples(self, rows: pa.Table) -> None:
        """Keep the first few documents of every reason."""
        step = pc.if_else(pc.equal(rows["step"], ""), READ, rows["step"])
        kinds = pc.binary_join_element_wise(step, rows["reason"], "/")
        for kind in pc.unique(kinds).to_pylist():
            missing = EXAMPLES_PER_REASON - len(self._examples[kind])
            places = np.flatnonzero(pc.equal(kinds, kind).to_numpy())[:missing]
            names = ["id", "url", "outcome", "step", "reason", "value", "threshold", "text", "page"]
            for row in rows.select(names).take(places).to_pylist():
                excerpt = row.pop("text")[:EXCERPT_CHARS]
                self._examples[kind].append(row | {"excerpt": excerpt})

    def close(self, folder: Path) -> dict[str, Any]:
        """Write the files; returns the record of the unit."""
        lines = [json.dumps(row) for kind in self._examples.values() for row in kind]
        write_atomic(folder / EXAMPLES, "".join(f"{line}\n" for line in lines))
        hosts = dict(sorted(self._hosts.items()))
        table = pa.table([list(hosts), list(hosts.values())], HOSTS)
        with atomic_file(folder / HOST_COUNTS) as path:
            pq.write_table(table, path, compression="zstd", write_page_checksum=True)
        return {"account": self.account.to_record(), "shown": self._shown}
