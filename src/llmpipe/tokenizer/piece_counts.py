"""How often each piece of text occurs, in 64 bits and in memory that does not grow with the text.

Merges are learned from unique pieces and their counts, so a text of any length is first reduced to
those. Counting goes through Arrow's hash tables. The counts of a part of the corpus can be written
to a file and added to those of other parts; sums do not depend on order, so the result is the same
whatever process counted what.

Sums are made bucket by bucket, where a piece's bucket is a hash of its bytes: so the memory needed
is that of the largest bucket, and the counts stay exact however many different pieces there are.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from llmpipe.core.artifact import atomic_file
from llmpipe.tokenizer.char_classes import SEPARATOR
from llmpipe.tokenizer.splitter import Pieces, split_texts

N_BUCKETS = 16
"""Parts in which counts are added up. 16 hold 100 million different pieces in 300 MB each."""

MAX_PIECE_BYTES = 50_000
"""Longer pieces are not counted: a megabyte of spaces teaches nothing, and would fill the memory."""

_WAITING_PIECES = 1 << 20
"""Pieces that are collected before they are added up."""

_SHORT_BYTES = 7
_LOW_BYTES = np.array([(1 << 8 * n) - 1 for n in range(8)], dtype=np.uint64)
_SEPARATOR_BYTES = SEPARATOR.encode("utf-8", "surrogatepass")
_SEPARATOR_KEY = int.from_bytes(_SEPARATOR_BYTES, "little") | len(_SEPARATOR_BYTES) << 56


@dataclass(frozen=True)
class PieceCounts:
    """Different pieces, in no certain order, and how often each occurs."""

    pieces: pa.LargeBinaryArray
    counts: np.ndarray

    def __len__(self) -> int:
        return len(self.counts)


class PieceCounter:
    """Counts pieces of text that comes in parts.

    Pieces of up to 7 bytes, most of them, are counted as numbers: their bytes and, on top, their
    length. Longer ones go through Arrow's table of strings.
    """

    def __init__(self, pattern: str) -> None:
        self._pattern = pattern
        self._short = _Sums(pa.uint64())
        self._long = _Sums(pa.large_binary())
        self._waiting: list[pa.Array] = []
        self._n_waiting = 0
        self.text_bytes = 0

    def add(self, texts: Iterable[str]) -> None:
        """Count the pieces of some texts (valid Unicode, without lone surrogates)."""
        for pieces in split_texts(texts, self._pattern):
            lengths = np.diff(pieces.starts)
            is_short = lengths <= _SHORT_BYTES
            keys = _short_keys(pieces, lengths, is_short)
            keys.sort()
            n_separators = int(np.count_nonzero(keys == _SEPARATOR_KEY))
            self.text_bytes += len(pieces.data) - n_separators * len(_SEPARATOR_BYTES)
            firsts = np.append(0, np.flatnonzero(keys[1:] != keys[:-1]) + 1)[: len(keys)]
            self._short.add(keys[firsts], np.diff(firsts, append=len(keys)))
            is_long = ~is_short & (lengths <= MAX_PIECE_BYTES)
            self._waiting.append(_binary(pieces).take(pa.array(np.flatnonzero(is_long))))
            self._n_waiting += len(self._waiting[-1])
            if self._n_waiting >= _WAITING_PIECES:
                self._count_waiting()

    def finish(self) -> PieceCounts:
        """Return the counts so far."""
        self._count_waiting()
        short, long = self._short.total(), self._long.total()
        keys = short["piece"].to_numpy()
        is_text = keys != _SEPARATOR_KEY
        tables = [_pieces_of_keys(keys[is_text], short["count"].to_numpy()[is_text]), long]
        return _piece_counts(pa.concat_tables(tables))

    def _count_waiting(self) -> None:
        if self._waiting:
            counted = pc.value_counts(pa.chunked_array(self._waiting))
            self._long.add(counted.field(0).cast(pa.large_binary()), counted.field(1))
            self._waiting, self._n_waiting = [], 0


class _Sums:
    """Adds up counts by key, now and then, so that memory follows the number of different keys."""

    def __init__(self, kind: pa.DataType) -> None:
        self._schema = pa.schema([("piece", kind), ("count", pa.int64())])
        self._total = self._schema.empty_table()
        self._waiting: list[pa.Table] = []
        self._n_waiting = 0

    def add(self, keys: Any, counts: Any) -> None:
        self._waiting.append(pa.table([keys, counts], schema=self._schema))
        self._n_waiting += len(keys)
        if self._n_waiting > max(_WAITING_PIECES, len(self._total)):
            self.total()

    def total(self) -> pa.Table:
        self._total = _add_tables([self._total, *self._waiting])
        self._waiting, self._n_waiting = [], 0
        return self._total


def _short_keys(pieces: Pieces, lengths: np.ndarray, is_short: np.ndarray) -> np.ndarray:
    """Return short pieces as numbers: 7 bytes from the lowest on, and the length in the highest."""
    # Eight bytes from every place on, as numbers, without copying: a step is one byte long.
    words = np.ndarray(len(pieces.data), "<u8", pieces.data + bytes(8), strides=(1,))
    lengths = lengths[is_short]
    keys: np.ndarray = words[pieces.starts[:-1][is_short]]
    keys &= _LOW_BYTES[lengths]
    keys |= lengths.astype(np.uint64) << np.uint64(56)
    return keys


def _pieces_of_keys(keys: np.ndarray, counts: np.ndarray) -> pa.Table:
    data = np.ascontiguousarray(keys, dtype="<u8").view(np.uint8).reshape(-1, 8)
    lengths = data[:, 7].astype(np.int64)
    used = np.arange(7) < lengths[:, None]
    offsets = np.append(0, np.cumsum(lengths))
    buffers = [None, pa.py_buffer(offsets), pa.py_buffer(data[:, :7][used].tobytes())]
    pieces = pa.Array.from_buffers(pa.large_binary(), len(keys), buffers)
    return pa.table([pieces, pa.array(counts)], schema=_SCHEMA)


_SCHEMA = pa.schema([("piece", pa.large_binary()), ("count", pa.int64())])


def _binary(pieces: Pieces) -> pa.BinaryArray:
    """View pieces as an Arrow array, without copying their bytes."""
    offsets = pa.py_buffer(pieces.starts.astype(np.int32))
    return pa.Array.from_buffers(
        pa.binary(), len(pieces.starts) - 1, [None, offsets, pa.py_buffer(pieces.data)]
    )


def _add_tables(tables: Sequence[pa.Table]) -> pa.Table:
    joined = pa.concat_tables([table for table in tables if len(table)] or tables[:1])
    added = joined.group_by("piece", use_threads=False).aggregate([("count", "sum")])
    return added.rename_columns({"count_sum": "count"}).select(["piece", "count"])


def _piece_counts(table: pa.Table) -> PieceCounts:
    table = table.combine_chunks()
    pieces = table["piece"].combine_chunks()
    return PieceCounts(pieces, table["count"].combine_chunks().to_numpy(zero_copy_only=False))


# -- Files -----------------------------------------------------------------------------------------


def save_counts(counts: PieceCounts, path: Path) -> None:
    """Write counts as an Arrow file with one record batch a bucket."""
    table = pa.table([counts.pieces, pa.array(counts.counts)], schema=_SCHEMA)
    buckets = _bucket_of(counts.pieces)
    with atomic_file(path) as temporary, pa.OSFile(str(temporary), "wb") as file:
        options = pa.ipc.IpcWriteOptions(compression="zstd")
        with pa.ipc.new_file(file, _SCHEMA, options=options) as writer:
            for i in range(N_BUCKETS):
                rows = table.filter(pa.array(buckets == i)).combine_chunks()
                batches = rows.to_batches() or [pa.RecordBatch.from_pylist([], schema=_SCHEMA)]
                writer.write_batch(batches[0])


def _bucket_of(pieces: pa.LargeBinaryArray) -> np.ndarray:
    """Return each piece's bucket, from its length, its first byte and its last."""
    offsets = np.frombuffer(pieces.buffers()[1], dtype=np.int64)
    offsets = offsets[pieces.offset : pieces.offset + len(pieces) + 1]
    data = np.frombuffer(pieces.buffers()[2] or b"\0", dtype=np.uint8)
    first, last = data[offsets[:-1]], data[offsets[1:] - 1]
    middle = data[(offsets[:-1] + offsets[1:]) // 2]
    mixed = np.diff(offsets) * 7 + first * 31 + middle.astype(np.int64) * 17 + last * 5
    buckets: np.ndarray = mixed % N_BUCKETS
    return buckets


def add_files(paths: Sequence[Path], max_pieces: int) -> tuple[PieceCounts, PrunedPieces]:
    """Add up the counts in files, exactly, and keep the most frequent pieces.

    If there are more than `max_pieces` different ones, those rarer than some count are left out, all
    of a count together, so that the choice depends on the counts alone.

    Returns:
        The pieces kept, and what was left out.
    """
    histogram: Counter[int] = Counter()  # how many pieces occur so many times
    kept: list[pa.Table] = []
    least, n_kept = 1, 0
    for table in _bucket_sums(paths):
        values, times = np.unique(table["count"].to_numpy(), return_counts=True)
        histogram.update(dict(zip(values.tolist(), times.tolist(), strict=True)))
        kept.append(_at_least(table, least))
        n_kept += len(kept[-1])
        if n_kept > max_pieces:
            least = _least_count(histogram, max_pieces)
            kept = [_at_least(table, least) for table in kept]
            n_kept = sum(map(len, kept))
    n_pruned = sum(n for value, n in histogram.items() if value < least)
    n_occurrences = sum(value * n for value, n in histogram.items() if value < least)
    counts = _piece_counts(pa.concat_tables(kept) if kept else _SCHEMA.empty_table())
    kept.clear()
    pa.default_memory_pool().release_unused()
    return counts, PrunedPieces(n_pruned, n_occurrences, least)


@dataclass(frozen=True)
class PrunedPieces:
    """Which pieces were left out: all that occur fewer than `below` times."""

    pieces: int
    occurrences: int
    below: int


def _bucket_sums(paths: Sequence[Path]) -> Iterator[pa.Table]:
    for i in range(N_BUCKETS):
        total = _SCHEMA.empty_table()
        waiting: list[pa.Table] = []
        for path in paths:
            with pa.memory_map(str(path)) as file:
                batch = pa.ipc.open_file(file).get_batch(i)
                waiting.append(pa.Table.from_batches([batch]))
            if sum(map(len, waiting)) > max(len(total), 1 << 18):
                total, waiting = _add_tables([total, *waiting]), []
        yield _add_tables([total, *waiting])


def _at_least(table: pa.Table, least: int) -> pa.Table:
    return table if least <= 1 else table.filter(pc.greater_equal(table["count"], least))


def _least_count(histogram: dict[int, int], max_pieces: int) -> int:
    """Return the smallest count so that at most `max_pieces` pieces occur as often or more."""
    n_pieces = 0
    for value in sorted(histogram, reverse=True):
        n_pieces += histogram[value]
        if n_pieces > max_pieces:
            return value + 1
    return 1
