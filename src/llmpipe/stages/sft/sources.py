"""Rows of conversation files, and the conversations in them.

    JSON lines    .jsonl, .json, .ndjson        plain, .gz or .zst      FILE:LINE
    JSON array    the same                                              FILE: row N
    Parquet       .parquet                                              FILE: row N
    a folder      of such files, or one saved by `datasets`             FOLDER: row N
    hf:NAME       a data set of the Hugging Face hub                    hf:NAME: row N

Every row may have another shape (`shapes.py`). A row that cannot be used is named with its place and
the reason, never passed over in silence.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmpipe.assistant.conversation import Conversation
from llmpipe.core.errors import InputError, LlmpipeError
from llmpipe.core.row_files import parquet_rows, unpack
from llmpipe.stages.sft.shapes import parse_row

HUB = "hf:"
_JSON_SUFFIXES = (".jsonl", ".json", ".ndjson")


@dataclass(frozen=True)
class RowError:
    """A row that could not be used."""

    where: str
    reason: str

    def __str__(self) -> str:
        return f"{self.where}: {self.reason}"


def read_conversations(
    path: Path | str, source: str, split: str = "train", limit: int | None = None
) -> tuple[list[Conversation], list[RowError]]:
    """Read the rows of a source.

    Args:
        path: a file, a folder, or `hf:` and the name of a data set.
        source: the name that the conversations bear.
        split: part of a data set that has parts.
        limit: rows to read at most.

    Raises:
        InputError: the source as a whole cannot be read.
    """
    conversations: list[Conversation] = []
    errors: list[RowError] = []
    for number, (where, row) in enumerate(_rows(str(path), split)):
        if limit is not None and number >= limit:
            break
        try:
            value = json.loads(row) if isinstance(row, str) else row
            conversations.append(Conversation(parse_row(value), source))
        except json.JSONDecodeError as error:
            errors.append(RowError(where, f"not JSON: {error.msg}"))
        except (ValueError, RecursionError) as error:
            errors.append(RowError(where, str(error)))
        except LlmpipeError as error:
            errors.append(RowError(where, error.message))
    return conversations, errors


def source_files(path: str) -> list[str]:
    """Return the files of a source, whose contents decide the result; none for a data set of the hub."""
    if path.startswith(HUB):
        return []
    folder = Path(path)
    if not folder.is_dir():
        return [path]
    return [str(file) for file in sorted(folder.rglob("*")) if file.is_file()]


def _rows(name: str, split: str) -> Iterator[tuple[str, Any]]:
    """Yield (place, row): text for JSON lines, values for everything else."""
    path = Path(name)
    if name.startswith(HUB):
        yield from _hub_rows(name.removeprefix(HUB), split)
    elif path.is_dir():
        yield from _folder_rows(path, split)
    elif path.suffix == ".parquet":
        yield from parquet_rows(path)
    else:
        yield from _json_rows(path)


# ------------------------------------------------------------------------------------------
# JSON


def _json_rows(path: Path) -> Iterator[tuple[str, Any]]:
    try:
        text = unpack(path).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"`{path}` cannot be read: {error}") from None
    if text.lstrip().startswith("["):
        try:
            rows = json.loads(text)
        except json.JSONDecodeError as error:
            raise InputError(f"{path}:{error.lineno}: not JSON: {error.msg}") from None
        yield from ((f"{path}: row {i}", row) for i, row in enumerate(rows, start=1))
    else:
        # Not `splitlines`, which also splits at separators that may stand inside a JSON string.
        lines = enumerate(text.split("\n"), start=1)
        yield from ((f"{path}:{number}", line) for number, line in lines if line.strip())


# ------------------------------------------------------------------------------------------
# Tables


def _folder_rows(folder: Path, split: str) -> Iterator[tuple[str, Any]]:
    """Read what `datasets` has saved, or every file with rows."""
    if (folder / "dataset_dict.json").is_file() or (folder / "dataset_info.json").is_file():
        import datasets

        loaded = datasets.load_from_disk(str(folder))
        if isinstance(loaded, datasets.DatasetDict):
            if split not in loaded:
                raise InputError(f"`{folder}` has no split `{split}`, only {', '.join(loaded)}")
            loaded = loaded[split]
        yield from ((f"{folder}: row {i}", row) for i, row in enumerate(loaded, start=1))
        return
    files = [f for f in sorted(folder.rglob("*")) if f.is_file() and _holds_rows(f)]
    if not files:
        raise InputError(f"`{folder}` has no JSON or Parquet files")
    for file in files:
        yield from _rows(str(file), split)


def _holds_rows(path: Path) -> bool:
    name = path.name.removesuffix(".gz").removesuffix(".zst")
    return name.endswith((".parquet", *_JSON_SUFFIXES)) and not name.startswith(".")


def _hub_rows(name: str, split: str) -> Iterator[tuple[str, Any]]:
    import datasets

    try:
        rows = datasets.load_dataset(name, split=split)
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        raise InputError(
            f"the data set `{name}` cannot be loaded: {error}",
            "without a network, name a local folder",
        ) from None
    yield from ((f"{HUB}{name}: row {i}", row) for i, row in enumerate(rows, start=1))
