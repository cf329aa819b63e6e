"""Reading documents, in units of work that any process can do alone.

A unit is a file or a range of one: row groups of a Parquet file, lines of a plain JSONL file. How
the input is cut into units depends on the files and settings alone, never on the number of
processes, and so do the shards.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from llmpipe.core.errors import InputError
from llmpipe.core.records.compression import is_packed
from llmpipe.core.records.files import check_endings, ending_of, expand, open_binary
from llmpipe.core.records.lines import Unreadable, intact, read_json_lines
from llmpipe.core.records.parquet import open_parquet, read_parquet
from llmpipe.stages.tokenize.config import TokenizeConfig
from llmpipe.tokenizer.bpe import clean_text

KINDS = (".jsonl", ".ndjson", ".parquet")
_FACTS = ("lang", "url")
"""Columns that the card groups documents by, where they are there."""
_PARAGRAPH_END = re.compile(r"\n\s*\n")
_TOO_LONG = "longer than allowed"
_LINE_PER_TEXT = 3
"""A line of JSON may be this much longer than its text: an escaped emoji is 12 bytes for 4."""


@dataclass(frozen=True)
class InputRange:
    """A unit's input: a file, or the part of it from `start` to `stop` (row groups or bytes)."""

    path: str
    start: int
    stop: int | None
    source: int = 0
    """Which source it belongs to, as its place in the settings."""
    copy: int = 0
    """Which time through the source this is, from 0."""


@dataclass(frozen=True)
class CorpusDocument:
    """One document, or a piece of one after `split_chars`."""

    id: str
    text: str | None
    """Valid Unicode; None when it cannot be used, for a `reason`."""
    data: bytes = b""
    """The text in UTF-8."""
    reason: str = ""
    """Why there is no text."""
    n_bytes: int = 0
    """The size of what is not used, where it is known."""
    n_surrogates: int = 0
    """Lone surrogates that were replaced by U+FFFD."""
    lang: str = ""
    url: str = ""


def expand_inputs(names: Sequence[str]) -> list[str]:
    """Return the files that paths, folders, globs and URLs stand for, sorted.

    Raises:
        InputError: if one of them stands for none, or a file is of an unknown kind.
    """
    files = sorted(set(expand(names, KINDS)))
    check_endings(files, KINDS)
    return files


def plan_ranges(paths: Sequence[str], unit_bytes: int) -> list[InputRange]:
    """Cut files into ranges of about `unit_bytes`; compressed JSONL cannot be cut."""
    ranges: list[InputRange] = []
    for path in paths:
        if _is_parquet(path):
            ranges += [InputRange(path, a, b) for a, b in _row_group_ranges(path, unit_bytes)]
        elif "://" not in path and not _is_packed(path):
            size = Path(path).stat().st_size
            starts = range(0, size, unit_bytes)
            ranges += [InputRange(path, a, min(a + unit_bytes, size)) for a in starts]
        else:
            ranges.append(InputRange(path, 0, None))
    return ranges


def _is_parquet(path: str) -> bool:
    return ending_of(path, KINDS) == ".parquet"


def _is_packed(path: str) -> bool:
    with open_binary(path) as file:
        return is_packed(file)


def _row_group_ranges(path: str, unit_bytes: int) -> Iterator[tuple[int, int]]:
    with open_parquet(path) as parquet:
        metadata = parquet.metadata
        start = size = 0
        for i in range(metadata.num_row_groups):
            size += metadata.row_group(i).total_byte_size
            if size >= unit_bytes or i + 1 == metadata.num_row_groups:
                yield start, i + 1
                start, size = i + 1, 0


def read_range(found: InputRange, config: TokenizeConfig) -> Iterator[CorpusDocument]:
    """Yield the documents of a range in order, cut into pieces if `split_chars` is set.

    A row that cannot be used comes as a document without text, with the reason.

    Raises:
        InputError: if the file is damaged, or no row at its beginning has a column or key of the text's name.
    """
    for document in _documents(found, config):
        if document.text is None or config.split_chars is None:
            yield document
            continue
        n_surrogates = document.n_surrogates
        for piece in split_text(document.text, config.split_chars):
            yield replace(document, text=piece, data=piece.encode(), n_surrogates=n_surrogates)
            n_surrogates = 0


def split_text(text: str, n_chars: int) -> Iterator[str]:
    """Cut `text` into pieces of at most `n_chars`; joined they are `text`.

    A cut is made after the last blank line that leaves a piece at least half as long as allowed,
    else after the last line break, else after the last space, else at `n_chars`.
    """
    start = 0
    while len(text) - start > n_chars:
        window = text[start + n_chars // 2 : start + n_chars]
        ends = [match.end() for match in _PARAGRAPH_END.finditer(window)]
        cut = ends[-1] if ends else window.rfind("\n") + 1 or window.rfind(" ") + 1 or len(window)
        yield text[start : start + n_chars // 2 + cut]
        start += n_chars // 2 + cut
    if start < len(text) or not text:
        yield text[start:]


def _documents(found: InputRange, config: TokenizeConfig) -> Iterator[CorpusDocument]:
    column, label = config.text_column, Path(found.path).name
    hint = "name it with `--set tokenize.text_column=NAME`"
    if _is_parquet(found.path):
        columns = [name for name in (column, config.id_column, *_FACTS) if name]
        groups = range(found.start, found.stop or 0)
        rows = read_parquet(found.path, columns, [column], groups, label, hint)
    else:
        # A longer line cannot hold a text as short as allowed.
        limit = _LINE_PER_TEXT * config.max_document_bytes + 2**16
        rows = read_json_lines(found.path, label, limit, found.start, found.stop)
    first, has_text = None, False
    for row in intact(rows):
        if isinstance(row, Unreadable):
            reason = _TOO_LONG if row.reason == "over_limit" else row.said
            yield CorpusDocument(row.where, None, n_bytes=row.n_bytes, reason=reason)
            continue
        first, has_text = first or row, has_text or column in row[1]
        yield _document(*row, config)
    if first and not has_text and not found.start:
        where, there = first
        raise InputError(f"{where}: no key `{column}`, there are {', '.join(there)}", hint)


def _document(where: str, row: dict[str, Any], config: TokenizeConfig) -> CorpusDocument:
    """Make a document from what a row says of it."""
    text = row.get(config.text_column)
    id_given = row.get(config.id_column) if config.id_column else None
    name = where if id_given is None else str(id_given)
    if isinstance(text, bytes):  # some writers of Parquet do not say that it is text
        text = text.decode(errors="replace")
    if not isinstance(text, str):
        reason = f"`{config.text_column}` must be a text, {type(text).__name__} came"
        return CorpusDocument(name, None, reason=reason)
    n_bad = 0
    try:
        data = text.encode()
    except UnicodeEncodeError:
        text, n_bad = clean_text(text)
        data = text.encode()
    if len(data) > config.max_document_bytes:
        return CorpusDocument(name, None, n_bytes=len(data), reason=_TOO_LONG)
    lang, url = (str(row.get(column) or "") for column in _FACTS)
    return CorpusDocument(name, text, data, n_surrogates=n_bad, lang=lang, url=url)
