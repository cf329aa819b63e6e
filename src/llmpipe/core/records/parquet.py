"""Parquet, row by row in bounded batches.

Checksums of pages are verified wherever a file has them: without that, a flipped bit in a text is another text.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from llmpipe.core.errors import InputError
from llmpipe.core.records.files import open_binary
from llmpipe.core.records.lines import PlacedRow, Unreadable

BATCH_ROWS = 64
"""Rows held at once. Documents of 30 MB exist, and larger batches were not faster."""


@contextlib.contextmanager
def open_parquet(path: str | Path) -> Iterator[Any]:
    """Open a file, or one at an address, as a `pyarrow.parquet.ParquetFile`.

    Raises:
        InputError: it cannot be read, or is no Parquet.
    """
    import pyarrow
    import pyarrow.parquet

    with open_binary(path) as file:
        try:
            yield pyarrow.parquet.ParquetFile(file, page_checksum_verification=True)
        except (pyarrow.ArrowException, OSError) as error:
            raise InputError(f"`{path}` cannot be read: {error}") from None


def read_parquet(
    path: str | Path,
    columns: Sequence[str] = (),
    needed: Sequence[str] = (),
    groups: range | None = None,
    label: str | None = None,
    hint: str | None = None,
) -> Iterator[PlacedRow | Unreadable]:
    """Read the rows of a file, or of some of its row groups.

    Args:
        path: the file, or its address.
        columns: those that are wanted if they are there; without it, all.
        needed: at least one of these must be there.
        groups: numbers of row groups; without it, all.
        label: what places are named after; without it, the path.
        hint: what to do where no needed column is there.

    Yields:
        The place and the values of each row; one `Unreadable` for every row that is lost in a damaged row group, and
        one for a row with a text that is not UTF-8.

    Raises:
        InputError: the file cannot be opened, or has none of the needed columns.
    """
    import pyarrow
    import pyarrow.parquet

    label = str(path) if label is None else label
    with open_binary(path) as stored:
        try:
            file = pyarrow.parquet.ParquetFile(stored, page_checksum_verification=True)
        except (pyarrow.ArrowException, OSError) as error:
            size = stored.seek(0, 2)
            yield Unreadable(label, "damaged_parquet", size, is_damage=True, detail=str(error))
            return
        there = file.schema_arrow.names
        if needed and not set(needed) & set(there):
            names = " or ".join(f"`{name}`" for name in needed)
            raise InputError(f"{label}: no column {names}, there are {', '.join(there)}", hint)
        wanted = [name for name in columns if name in there] if columns else None
        metadata = file.metadata
        groups = range(metadata.num_row_groups) if groups is None else groups
        n_row = sum(metadata.row_group(i).num_rows for i in range(groups.start))
        for i in groups:
            group = metadata.row_group(i)
            n_end = n_row + group.num_rows
            try:
                # One thread: how many processes read is the caller's choice.
                for batch in file.iter_batches(
                    BATCH_ROWS, row_groups=[i], columns=wanted, use_threads=False
                ):
                    for n_row, row in enumerate(_values(batch), n_row + 1):  # noqa: B020
                        where = f"{label}: row {n_row}"
                        yield (where, row) if row is not None else Unreadable(where, "not_utf8")
            except (pyarrow.ArrowException, OSError) as error:
                n_bytes = group.total_byte_size
                while n_row < n_end:
                    n_row += 1
                    yield Unreadable(label, "damaged_row_group", n_bytes, True, str(error))
                    n_bytes = 0


def _values(batch: Any) -> list[dict[str, Any] | None]:
    """Return the values of each row; None where a text is not UTF-8, which Parquet does not check."""
    try:
        return list(batch.to_pylist())
    except UnicodeDecodeError:
        values: list[dict[str, Any] | None] = []
        for i in range(len(batch)):
            try:
                values += batch.slice(i, 1).to_pylist()
            except UnicodeDecodeError:
                values.append(None)
        return values
