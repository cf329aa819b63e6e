"""What readers of rows share: packed files as bytes, Parquet files row by row."""

from __future__ import annotations

import gzip
import io
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from llmpipe.core.errors import InputError

PARQUET_ROWS = 1000
"""Rows of a Parquet file that are held at once."""


def unpack(path: Path) -> bytes:
    """Read a file, packed with gzip or zstd by its suffix, or not packed.

    Raises:
        InputError: if it cannot be read.
    """
    try:
        data = path.read_bytes()
        if path.suffix == ".gz":
            return gzip.decompress(data)
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"`{path}` cannot be read: {error}") from None
    if path.suffix != ".zst":
        return data
    import zstandard

    try:
        # The stream reader goes on over several frames and needs no size in the header.
        reader = zstandard.ZstdDecompressor().stream_reader(
            io.BytesIO(data), read_across_frames=True
        )
        return reader.read()
    except zstandard.ZstdError as error:
        raise InputError(f"`{path}` cannot be read: {error}") from None


def parquet_rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the place and the values of each row.

    Raises:
        InputError: if the file cannot be read.
    """
    import pyarrow
    from pyarrow import parquet

    number = 0
    try:
        with parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(PARQUET_ROWS):
                for row in batch.to_pylist():
                    number += 1
                    yield f"{path}: row {number}", row
    except (OSError, pyarrow.ArrowException) as error:
        raise InputError(f"`{path}` cannot be read: {error}") from None
