"""Rows of whatever holds rows: one function for a kind of file, and one line in the table of endings.

    a file's name     rows                                          place of a row
    .jsonl .ndjson    an object a line                              FILE:LINE
    .json             the same, or one array of objects             FILE:LINE, FILE: row N
    .parquet          its rows                                      FILE: row N
    .csv              its rows, with the first line as names        FILE:LINE
    .txt              the file is one row, with the key `text`      FILE

All but Parquet, which is packed inside, may be packed. `hf:NAME` is no file, but has rows: see `read_dataset`.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from llmpipe.core.errors import InputError
from llmpipe.core.records.files import check_endings, ending_of, open_stream
from llmpipe.core.records.lines import PlacedRow, Unreadable, read_json_lines
from llmpipe.core.records.parquet import read_parquet

HUB = "hf:"
_ARRAY = re.compile(rb"(?:\xef\xbb\xbf)?\s*\[\s*(?:\{|\Z|\])")
"""How an array of objects begins. A line that begins so is no row either way."""


def read_rows(path: str | Path) -> Iterator[PlacedRow | Unreadable]:
    """Read a file by its ending.

    Raises:
        InputError: the file cannot be opened or is of an unknown kind; of a kind that is read whole, also that it is
            damaged.
    """
    check_endings([str(path)], READERS)
    return READERS[ending_of(path, READERS) or ""](path)


def read_json(path: str | Path) -> Iterator[PlacedRow | Unreadable]:
    """Read JSON lines; or an array of objects, which is held whole."""
    with open_stream(path) as stream:
        head = stream.peek(1 << 12)  # type: ignore[attr-defined]  # a BufferedReader
        is_array = _ARRAY.match(head)
        try:
            rows = json.loads(_decode(path, stream.read())) if is_array else []
        except json.JSONDecodeError as error:
            raise InputError(f"{path}:{error.lineno}: not JSON: {error.msg}") from None
    if is_array:
        yield from _numbered(str(path), rows)
    else:
        yield from read_json_lines(path)


def read_csv(path: str | Path) -> Iterator[PlacedRow | Unreadable]:
    """Read a table whose first line names the columns."""
    with open_stream(path) as stream:
        reader = csv.DictReader(io.TextIOWrapper(stream, "utf-8-sig", newline=""))
        try:
            for row in reader:
                yield f"{path}:{reader.line_num}", dict(row)
        except (UnicodeDecodeError, csv.Error) as error:
            raise InputError(f"`{path}` cannot be read: {error}") from None


def read_text(path: str | Path) -> Iterator[PlacedRow | Unreadable]:
    """Read a plain text as one row."""
    with open_stream(path) as stream:
        yield str(path), {"text": _decode(path, stream.read())}


def _decode(path: str | Path, data: bytes) -> str:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"`{path}` cannot be read: {error}") from None


READERS: dict[str, Callable[[str | Path], Iterator[PlacedRow | Unreadable]]] = {
    ".jsonl": read_json,
    ".ndjson": read_json,
    ".json": read_json,
    ".parquet": read_parquet,
    ".csv": read_csv,
    ".txt": read_text,
}
"""By the endings of their names, how files are read."""


def read_dataset(
    name: str, split: str = "train", streaming: bool = False
) -> Iterator[PlacedRow | Unreadable]:
    """Read a data set of the Hugging Face hub, or a folder of its files.

    Args:
        name: as the hub has it, or the folder's path; `hf:` may stand before it.
        streaming: read it as it comes, and keep nothing of it on disk.

    Raises:
        InputError: it cannot be loaded.
    """
    import datasets

    name = name.removeprefix(HUB)
    try:
        rows = datasets.load_dataset(name, split=split, streaming=streaming)
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        raise InputError(
            f"the data set `{name}` cannot be loaded: {error}",
            "without a network, name a local folder",
        ) from None
    yield from _numbered(f"{HUB}{name}", rows)


def _numbered(label: str, rows: Iterable[Any]) -> Iterator[PlacedRow | Unreadable]:
    for i, row in enumerate(rows, start=1):
        where = f"{label}: row {i}"
        if isinstance(row, dict):
            yield where, row
        else:
            detail = f"expected an object, got {type(row).__name__}"
            yield Unreadable(where, "bad_json", detail=detail)
