"""Rows of JSON lines, Parquet, CSV and plain text, packed or not."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from llmpipe.core.errors import InputError
from llmpipe.core.row_files import parquet_rows, unpack

Row = dict[str, Any]


def read_rows(path: Path) -> Iterator[tuple[str, Row]]:
    """Yield where each row stands, and the row; a plain text is one row, with the key `text`.

    Raises:
        InputError: naming the file, and the line where one is wrong.
    """
    kind = Path(path.stem).suffix if path.suffix in (".gz", ".zst") else path.suffix
    try:
        if kind == ".parquet":
            yield from parquet_rows(path)
        elif kind == ".csv":
            yield from _csv_rows(path)
        elif kind == ".txt":
            yield str(path), {"text": unpack(path).decode("utf-8")}
        elif kind in (".jsonl", ".json"):
            yield from _json_rows(path)
        else:
            raise InputError(
                f"`{path}`: rows are read from .jsonl, .parquet, .csv and .txt, also with .gz or .zst"
            )
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"`{path}` cannot be read: {error}") from None


def _json_rows(path: Path) -> Iterator[tuple[str, Row]]:
    # Not `splitlines`, which also splits at separators that may stand inside a JSON string.
    for number, line in enumerate(unpack(path).decode("utf-8-sig").split("\n"), start=1):
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
    reader = csv.DictReader(io.StringIO(unpack(path).decode("utf-8-sig"), newline=""))
    for row in reader:
        yield f"{path}:{reader.line_num}", dict(row)
