"""Documents between the two passes: segments of a unit, in Parquet.

A unit's records are written in segments of a fixed number of records, each file atomically. So a worker that is
killed loses at most one segment of work, and the files do not depend on how often that happened. Inside a segment, row
groups end by bytes, so that a reader holds no more of it than a writer of parts does, however long its texts are.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from llmpipe.core.artifact import atomic_file
from llmpipe.stages.data.config import DataConfig
from llmpipe.stages.data.steps.table import STEPS

RECORDS_PER_SEGMENT = 1000
ROW_GROUP_BYTES = 16_000_000
"""A row group ends with the row at which its texts reach this size."""
READ = "read"
"""Where a document is dropped before the first step."""
KEPT, DROPPED, UNREADABLE = "kept", "dropped", "unreadable"
EXCERPT_CHARS = 500
"""What is kept of a dropped document's text."""


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


_TYPES = {
    "i_record": pa.int64(),
    "lang_score": pa.float32(),
    "quality": pa.float32(),
    "n_words": pa.int32(),
}
"""The types of columns that are not text."""


def key_columns(config: DataConfig, step: str) -> list[str]:
    """Name the columns of a corpus step's keys."""
    n_keys = STEPS[step].n_keys(getattr(config, step))
    return [f"{step}_{i:03d}" for i in range(n_keys)]


def _schema(config: DataConfig) -> pa.Schema:
    names = [field.name for field in dataclasses.fields(Row) if field.name != "keys"]
    columns = {name: _TYPES.get(name, pa.string()) for name in names} | {"n_bytes": pa.int64()}
    for step in config.steps:
        if STEPS[step].scope == "corpus":
            columns |= dict.fromkeys(key_columns(config, step), pa.uint64())
    return pa.schema(columns.items())


class SegmentWriter:
    """Collects the rows of a unit; writes a segment whenever the record number passes a multiple of their size."""

    def __init__(self, config: DataConfig, folder: Path) -> None:
        self._schema = _schema(config)
        self._folder = folder
        self._n_segments = len(segment_paths(folder))
        self.rows: list[Row] = []
        self.others: Counter[str] = Counter()
        """Records that are no documents, by kind."""
        self.bad_bytes = 0
        """Bytes that were passed over."""

    @property
    def n_done(self) -> int:
        """Records that an earlier attempt has already written."""
        return self._n_segments * RECORDS_PER_SEGMENT

    def end_record(self, i_record: int) -> None:
        """Note that a record is complete; this may write a segment."""
        if (i_record + 1) % RECORDS_PER_SEGMENT == 0:
            self._write()

    def close(self) -> None:
        """Write what is left."""
        if self.rows or self.others or self.bad_bytes:
            self._write()

    def _write(self) -> None:
        counts = {"others": dict(sorted(self.others.items())), "bad_bytes": self.bad_bytes}
        schema = self._schema.with_metadata({"counts": json.dumps(counts)})
        table = pa.Table.from_pylist([_to_columns(row) for row in self.rows], schema)
        path = self._folder / f"segment-{self._n_segments:05d}.parquet"
        with RowGroupWriter(path, schema, ROW_GROUP_BYTES) as writer:
            writer.add(table, table["n_bytes"].to_numpy())
        self._n_segments += 1
        self.rows, self.others, self.bad_bytes = [], Counter(), 0


def _to_columns(row: Row) -> dict[str, Any]:
    values = vars(row) | {"n_bytes": len(row.text.encode())}
    values["pii"] = json.dumps(row.pii, sort_keys=True) if row.pii else None
    for step, keys in row.keys.items():
        values |= {f"{step}_{i:03d}": key for i, key in enumerate(keys)}
    return values


class RowGroupWriter:
    """Writes one Parquet file, atomically, in row groups that end by bytes.

    Where they end depends on the rows alone, not on how many are added at a time; equal rows make equal files.
    At most one row group and what was added last are in memory.

    Args:
        path: of the file.
        schema: of its columns.
        group_bytes: a row group ends with the row at which it reaches this size.
        even_empty: make the file even if it gets no rows.
    """

    def __init__(
        self, path: Path, schema: pa.Schema, group_bytes: int, even_empty: bool = True
    ) -> None:
        self._path = path
        self._schema = schema
        self._group_bytes = group_bytes
        self._even_empty = even_empty
        self._rows: list[pa.Table] = []
        self._n_bytes = 0
        self._files = contextlib.ExitStack()
        self._writer: pq.ParquetWriter | None = None

    def add(self, rows: pa.Table, n_bytes: np.ndarray) -> None:
        """Add rows of the given sizes."""
        sums = np.cumsum(n_bytes)
        start = done = 0
        while (last := int(np.searchsorted(sums, done + self._group_bytes - self._n_bytes))) < len(sums):  # fmt: skip
            self._rows.append(rows.slice(start, last + 1 - start))
            self._end_group()
            start, done = last + 1, int(sums[last])
        if start < len(sums):
            self._rows.append(rows.slice(start))
            self._n_bytes += int(sums[-1]) - done

    def _end_group(self) -> None:
        # In one piece, because pages end where the pieces of a column do.
        group = pa.concat_tables(self._rows).combine_chunks()
        self._open().write_table(group, row_group_size=group.num_rows)
        self._rows, self._n_bytes = [], 0

    def _open(self) -> pq.ParquetWriter:
        if self._writer is None:
            path = self._files.enter_context(atomic_file(self._path))
            options = {"compression": "zstd", "write_page_checksum": True}
            self._writer = self._files.enter_context(
                pq.ParquetWriter(path, self._schema, **options)
            )
        return self._writer

    def __enter__(self) -> RowGroupWriter:
        return self

    def __exit__(self, *error: Any) -> None:
        if error[0] is None:
            if self._rows:
                self._end_group()
            elif self._even_empty:
                self._open()
        self._files.__exit__(*error)


def segment_paths(folder: Path) -> list[Path]:
    """Return the segments of a unit in order."""
    return sorted(folder.glob("segment-*.parquet"))


def read_segments(paths: Iterable[Path], columns: Sequence[str]) -> Iterator[pa.Table]:
    """Read some columns of segments, one row group at a time."""
    for path in paths:
        # Not `pq.read_table`: it imports pyarrow's datasets and pandas, a third of a second.
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            for i in range(file.num_row_groups):
                group = file.read_row_group(i, columns=columns, use_threads=False)
                yield group.combine_chunks()


def drop_row(step: str, reason: str, value: str, threshold: str = "") -> dict[str, str]:
    """Return what changes in a row that a step of the second pass drops."""
    why = {"reason": reason, "value": value, "threshold": threshold}
    return {"outcome": DROPPED, "step": step} | why


def change_rows(rows: pa.Table, changes: Mapping[int, Mapping[str, Any]]) -> pa.Table:
    """Return rows in which some have other values: place of a row -> column -> value."""
    for name in {name: None for change in changes.values() for name in change}:
        changed = sorted(place for place, change in changes.items() if name in change)
        column = rows[name].combine_chunks()
        mask = np.zeros(len(rows), bool)
        mask[changed] = True
        values = pa.array([changes[place][name] for place in changed], column.type)
        column = pc.replace_with_mask(column, mask, values)
        rows = rows.set_column(rows.schema.get_field_index(name), name, column)
    return rows
