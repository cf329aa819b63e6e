"""What is known of each document between the two passes: segments of a unit, in Parquet.

A unit's records are written in segments of a fixed number of records, each file atomically. So a worker that is
killed loses at most one segment of work, and the files do not depend on how often that happened.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from llmpipe.core.artifact import atomic_file
from llmpipe.stages.data.config import DataConfig
from llmpipe.stages.data.steps.table import STEPS

RECORDS_PER_SEGMENT = 1000
READ = "read"
"""Where a document is dropped before the first step."""
KEPT, DROPPED, UNREADABLE = "kept", "dropped", "unreadable"


@dataclass
class Row:
    """One document and what became of it in the first pass."""

    i_record: int
    outcome: str
    url: str = ""
    date: str = ""
    step: str = ""
    """The step that dropped it."""
    reason: str = ""
    value: str = ""
    threshold: str = ""
    text: str = ""
    """The whole text of a kept document; an excerpt of a dropped one."""
    page: str = ""
    """The beginning of a dropped document's HTML."""
    lang: str = ""
    lang_score: float = 0.0
    quality: float | None = None
    n_words: int = 0
    pii: dict[str, int] = field(default_factory=dict)
    keys: dict[str, list[int]] = field(default_factory=dict)


_PLAIN = pa.schema(
    [
        ("i_record", pa.int64()),
        ("outcome", pa.string()),
        ("url", pa.string()),
        ("date", pa.string()),
        ("step", pa.string()),
        ("reason", pa.string()),
        ("value", pa.string()),
        ("threshold", pa.string()),
        ("text", pa.string()),
        ("page", pa.string()),
        ("lang", pa.string()),
        ("lang_score", pa.float32()),
        ("quality", pa.float32()),
        ("n_words", pa.int32()),
    ]
)


def key_columns(config: DataConfig, step: str) -> list[str]:
    """Name the columns of a corpus step's keys."""
    n_keys = STEPS[step].n_keys(getattr(config, step))
    return [f"{step}_{i:03d}" for i in range(n_keys)]


def _schema(config: DataConfig) -> pa.Schema:
    fields = [*_PLAIN, pa.field("pii", pa.string())]
    for step in config.steps:
        if STEPS[step].scope == "corpus":
            fields += [pa.field(name, pa.uint64()) for name in key_columns(config, step)]
    return pa.schema(fields)


class SegmentWriter:
    """Collects the rows of a unit; writes a segment whenever the record number passes a multiple."""

    def __init__(self, config: DataConfig, folder: Path) -> None:
        self._schema = _schema(config)
        self._folder = folder
        self._n_segments = len(list(folder.glob("segment-*.parquet")))
        self._rows: list[Row] = []
        self._others: Counter[str] = Counter()
        self._bad_bytes = 0

    @property
    def n_done(self) -> int:
        """Records that an earlier attempt has already written."""
        return self._n_segments * RECORDS_PER_SEGMENT

    def add_row(self, row: Row) -> None:
        """Add a document."""
        self._rows.append(row)

    def add_other(self, kind: str) -> None:
        """Count a record that is no document."""
        self._others[kind] += 1

    def add_bad_bytes(self, n_bytes: int) -> None:
        """Count bytes passed over."""
        self._bad_bytes += n_bytes

    def end_record(self, i_record: int) -> None:
        """Note that a record is complete; this may write a segment."""
        if (i_record + 1) % RECORDS_PER_SEGMENT == 0:
            self._write()

    def close(self) -> None:
        """Write what is left."""
        if self._rows or self._others or self._bad_bytes:
            self._write()

    def _write(self) -> None:
        counts = {"others": dict(sorted(self._others.items())), "bad_bytes": self._bad_bytes}
        columns: dict[str, list[Any]] = {
            f.name: [getattr(r, f.name) for r in self._rows] for f in _PLAIN
        }
        columns["pii"] = [
            json.dumps(row.pii, sort_keys=True) if row.pii else None for row in self._rows
        ]
        for name in self._schema.names[len(columns) :]:
            step, i = name.rsplit("_", 1)
            columns[name] = [
                row.keys[step][int(i)] if step in row.keys else None for row in self._rows
            ]
        table = pa.table(columns, self._schema.with_metadata({"counts": json.dumps(counts)}))
        with atomic_file(self._folder / f"segment-{self._n_segments:05d}.parquet") as path:
            pq.write_table(table, path, compression="zstd", write_page_checksum=True)
        self._n_segments += 1
        self._rows, self._others, self._bad_bytes = [], Counter(), 0


def segment_paths(folder: Path) -> list[Path]:
    """Return the segments of a unit in order."""
    return sorted(folder.glob("segment-*.parquet"))


def read_segments(paths: list[Path], columns: list[str]) -> Iterator[pa.Table]:
    """Read some columns of segments, one segment at a time."""
    for path in paths:
        # Not `pq.read_table`: it imports pyarrow's datasets and pandas, a third of a second.
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            yield file.read(columns=columns, use_threads=False)


def read_counts(path: Path) -> dict[str, Any]:
    """Return what a segment counted besides its rows."""
    counts: dict[str, Any] = json.loads(pq.read_schema(path).metadata[b"counts"])
    return counts
