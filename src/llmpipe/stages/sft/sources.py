"""Rows of conversation files, and the conversations in them.

    a file        of a kind that `core/records/rows.py` reads    FILE:LINE or FILE: row N
    a folder      of such files, or one saved by `datasets`      the same, or FOLDER: row N
    hf:NAME       a data set of the Hugging Face hub             hf:NAME: row N

Every row may have another shape (`shapes.py`). A row that cannot be used is named with its place and
the reason, never passed over in silence.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

from llmpipe.assistant.conversation import Conversation
from llmpipe.core.errors import InputError, LlmpipeError
from llmpipe.core.records.files import expand
from llmpipe.core.records.lines import PlacedRow, Unreadable, intact
from llmpipe.core.records.rows import HUB, read_dataset, read_rows
from llmpipe.stages.sft.shapes import parse_row

_KINDS = (".jsonl", ".ndjson", ".json", ".parquet")
"""What is read of a folder. A `.txt` beside them tells about them."""
_SAVED = ("dataset_dict.json", "dataset_info.json")
"""What `datasets` writes into a folder that it saves."""


def read_conversations(
    path: Path | str, source: str, split: str = "train", limit: int | None = None
) -> tuple[list[Conversation], list[Unreadable]]:
    """Read the rows of a source.

    Args:
        path: A file, a folder, or `hf:` and the name of a data set.
        source: The name that the conversations bear.
        split: The part to read of a data set that has parts.

    Raises:
        InputError: the source as a whole cannot be read.
    """
    conversations: list[Conversation] = []
    errors: list[Unreadable] = []
    for row in itertools.islice(intact(_rows(str(path), split)), limit):
        if isinstance(row, Unreadable):
            errors.append(row)
            continue
        try:
            conversations.append(Conversation(parse_row(row[1]), source))
        except (ValueError, RecursionError, LlmpipeError) as error:
            errors.append(Unreadable(row[0], str(error)))
    return conversations, errors


def source_files(path: str) -> list[str]:
    """Return the files of a source, whose contents decide the result; none for a data set of the hub."""
    if path.startswith(HUB):
        return []
    folder = Path(path)
    if not folder.is_dir():
        return [path]
    return [str(file) for file in sorted(folder.rglob("*")) if file.is_file()]


def _rows(name: str, split: str) -> Iterator[PlacedRow | Unreadable]:
    if name.startswith(HUB):
        yield from read_dataset(name, split)
    elif any((Path(name) / saved).is_file() for saved in _SAVED):
        yield from _saved_rows(name, split)
    else:
        for file in expand([name], _KINDS):
            yield from read_rows(file)


def _saved_rows(folder: str, split: str) -> Iterator[PlacedRow]:
    """Read what `datasets` has saved."""
    import datasets

    loaded = datasets.load_from_disk(folder)
    if isinstance(loaded, datasets.DatasetDict):
        if split not in loaded:
            raise InputError(f"`{folder}` has no split `{split}`, only {', '.join(loaded)}")
        loaded = loaded[split]
    yield from ((f"{folder}: row {i}", row) for i, row in enumerate(loaded, start=1))
