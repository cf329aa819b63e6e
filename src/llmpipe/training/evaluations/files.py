"""Rows of JSON lines, Parquet, CSV and plain text, packed or not."""

from __future__ import annotations

import csv
import gzip
import io
import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from llmpipe.core.errors import InputError

Row = dict[str, Any]

PARQUET_ROWS = 1000
"""Rows of a Parquet file that are held at once."""


def read_rows(path: Path) -> Iterator[tuple[str, Row]]:
    """Yield where each row stands, and the row; a plain text is one row, with the key `text`.

    Raises:
        InputError: naming the file, and the line where one is wrong.
    """
    kind = Path(path.stem).suffix if path.suffix in (".gz", ".zst") else path.suffix
    try:
        if kind == ".parquet":
            yield from _parquet_rows(path)
        elif kind == ".csv":
            yield from _csv_rows(path)
        elif kind == ".txt":
            yield str(path), {"text": _unpack(path).decode("utf-8")}
        elif kind in (".jsonl", ".json"):
            yield from _json_rows(path)
        else:
            raise InputError(
                f"`{path}`: rows are read from .jsonl, .parquet, .csv and .txt, also with .gz or .zst"
            )
    except (OSError, EOFError, zlib.error, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"`{path}` cannot be read: {error}") from None


def _json_rows(path: Path) -> Iterator[tuple[str, Row]]:
    # Not `splitlines`, which also splits at separators that may stand inside a JSON string.
    for number, line in enumerate(_unpack(path).decode("utf-8-sig").split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise InputError(f"{path}:{number}: not JSON: {error.msg}") from None
        if not isinstance(row, dict):
            raise InputError(f"{path}:{number}: expected an object, got {line[:40]}")
        yield f"{path}:{number}", row


def _csv_rows(path: Path) -> Iterator[tuple[str, Row]]:
    reader = csv.DictReader(io.StringIO(_unpack(path).decode("utf-8-sig"), newline=""))
    for row in reader:
        yield f"{path}:{reader.line_num}", dict(row)


def _parquet_rows(path: Path) -> Iterator[tuple[str, Row]]:
    import pyarrow
    from pyarrow import parquet

    number = 0
    try:
        with parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(PARQUET_ROWS):
                for row in batch.to_pylist():
                    number += 1
                    yield f"{path}: row {number}", row
    except pyarrow.ArrowException as error:
        raise InputError(f"`{path}` cannot be read: {error}") from None


def _unpack(path: Path) -> bytes:
    data = path.read_bytes()
    if path.suffix == ".gz":
        return gzip.decompress(data)
    if path.suffix == ".zst":
        import zstandard

        try:
            # The stream reader goes on over several frames and needs no size in the header.
            unpacker = zstandard.ZstdDecompressor()
            return unpacker.stream_reader(io.BytesIO(data), read_across_frames=True).read()
        except zstandard.ZstdError as error:
            raise InputError(f"`{path}` cannot be read: {error}") from None
    return data
