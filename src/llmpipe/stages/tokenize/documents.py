"""Reading documents, in units of work that any process can do alone.

A unit is a file or a range of one: row groups of a Parquet file, lines of a plain JSONL file. How
the input is cut into units depends on the files and settings alone, never on the number of
processes, and so do the shards.
"""

from __future__ import annotations

import contextlib
import glob
import io
import json
import re
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any

from llmpipe.core.errors import InputError
from llmpipe.stages.tokenize.config import TokenizeConfig
from llmpipe.tokenizer.bpe import clean_text

SUFFIXES = (".parquet", ".jsonl", ".jsonl.gz", ".jsonl.zst")
_FACTS = ("lang", "url")
"""Columns that the card groups documents by, where they are there."""
_PARAGRAPH_END = re.compile(r"\n\s*\n")
_LINE_PER_TEXT = 3
"""A line of JSON may be this much longer than its text: an escaped emoji is 12 bytes for 4."""


@dataclass(frozen=True)
class Unit:
    """A file, or the part of it from `start` to `stop` (row groups or bytes)."""

    index: int
    path: str
    start: int
    stop: int | None
    source: int = 0
    """Which source it belongs to, as its place in the settings."""
    copy: int = 0
    """Which time through the source this is, from 0."""


@dataclass(frozen=True)
class Document:
    """One document, or a piece of one after `split_chars`."""

    id: str
    text: str | None
    """Valid Unicode; None when it is longer than allowed: `n_bytes` says how long."""
    data: bytes = b""
    """The text in UTF-8."""
    n_bytes: int = 0
    n_surrogates: int = 0
    """Lone surrogates that were replaced by U+FFFD."""
    lang: str = ""
    url: str = ""


def expand_inputs(patterns: Sequence[str]) -> list[str]:
    """Return the files that paths, folders, globs and URLs stand for, sorted.

    Raises:
        InputError: if one of them stands for none, or a file is of an unknown kind.
    """
    files: set[str] = set()
    for pattern in patterns:
        if "://" in pattern:
            found = _expand_url(pattern)
        elif Path(pattern).is_dir():
            found = [str(p) for p in Path(pattern).rglob("*") if p.name.endswith(SUFFIXES)]
        elif Path(pattern).exists():
            found = [pattern]
        else:
            found = glob.glob(pattern, recursive=True)  # noqa: PTH207  Path.glob takes no absolute pattern
        if not found:
            raise InputError(f"the input `{pattern}` matches no file")
        files.update(found)
    for name in files:
        if not name.endswith(SUFFIXES):
            raise InputError(f"{name}: the kinds of file read here are {', '.join(SUFFIXES)}")
    return sorted(files)


def _expand_url(url: str) -> list[str]:
    """Return the files that a URL stands for; with `*` in it, those that match."""
    if "*" not in url:
        return [url]
    import fsspec

    try:
        filesystem, path = fsspec.url_to_fs(url)
        return [filesystem.unstrip_protocol(name) for name in filesystem.glob(path)]
    except (OSError, ValueError, ImportError) as error:
        raise InputError(f"{url}: cannot be listed ({error})") from error


def plan_units(paths: Sequence[str], unit_bytes: int) -> list[Unit]:
    """Cut files into units of about `unit_bytes`; compressed JSONL cannot be cut."""
    ranges: list[tuple[str, int, int | None]] = []
    for path in paths:
        if path.endswith(".parquet"):
            ranges += [(path, a, b) for a, b in _row_group_ranges(path, unit_bytes)]
        elif path.endswith(".jsonl") and "://" not in path:
            size = Path(path).stat().st_size
            ranges += [(path, a, min(a + unit_bytes, size)) for a in range(0, size, unit_bytes)]
        else:
            ranges.append((path, 0, None))
    return [Unit(i, *where) for i, where in enumerate(ranges)]


def _row_group_ranges(path: str, unit_bytes: int) -> Iterator[tuple[int, int]]:
    with _open_parquet(path) as parquet:
        metadata = parquet.metadata
        start = size = 0
        for i in range(metadata.num_row_groups):
            size += metadata.row_group(i).total_byte_size
            if size >= unit_bytes or i + 1 == metadata.num_row_groups:
                yield start, i + 1
                start, size = i + 1, 0


def read_unit(unit: Unit, config: TokenizeConfig) -> Iterator[Document]:
    """Yield the documents of a unit in order, cut into pieces if `split_chars` is set.

    Raises:
        InputError: naming the place, if something is not UTF-8, not JSON, or lacks a text.
    """
    rows = _read_parquet if unit.path.endswith(".parquet") else _read_jsonl
    for document in rows(unit, config):
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
        cut = ends[-1] if ends else max(window.rfind("\n"), -1) + 1 or window.rfind(" ") + 1
        cut = cut or len(window)
        yield text[start : start + n_chars // 2 + cut]
        start += n_chars // 2 + cut
    if start < len(text) or not text:
        yield text[start:]


# -- Parquet ---------------------------------------------------------------------------------------


@contextlib.contextmanager
def _open_parquet(path: str) -> Iterator[Any]:
    import pyarrow
    import pyarrow.parquet

    try:
        with _open(path) as file:
            yield pyarrow.parquet.ParquetFile(file, page_checksum_verification=True)
    except (pyarrow.ArrowException, OSError) as error:
        raise InputError(f"{path}: not readable as Parquet ({error})") from error


def _read_parquet(unit: Unit, config: TokenizeConfig) -> Iterator[Document]:
    with _open_parquet(unit.path) as parquet:
        names = parquet.schema_arrow.names
        if config.text_column not in names:
            raise InputError(
                f"{unit.path}: no column `{config.text_column}`, there are {', '.join(names)}",
                "name it with `--set tokenize.text_column=NAME`",
            )
        others = [name for name in (config.id_column, *_FACTS) if name in names]
        columns = [config.text_column, *map(str, others)]
        groups = list(range(unit.start, unit.stop or 0))
        n_row = 0
        for batch in parquet.iter_batches(batch_size=64, row_groups=groups, columns=columns):
            facts = batch.select(others).to_pylist() if others else [{}] * len(batch)
            for i, value in enumerate(batch.column(config.text_column)):
                where = f"{Path(unit.path).name}: row {n_row} from row group {unit.start}"
                yield _document(facts[i], _as_text(value, where), where, config)
                n_row += 1


def _as_text(value: Any, where: str) -> object:
    try:
        return value.as_py()
    except UnicodeDecodeError as error:
        raise InputError(f"{where}: not UTF-8 ({error.reason})") from error


def _document(facts: dict[str, Any], text: object, where: str, config: TokenizeConfig) -> Document:
    """Make a document from what a row says of it."""
    if not isinstance(text, str):
        raise InputError(
            f"{where}: `{config.text_column}` must be a text, {type(text).__name__} came"
        )
    found = facts.get(config.id_column) if config.id_column else None
    name = where if found is None else str(found)
    n_bad = 0
    try:
        data = text.encode()
    except UnicodeEncodeError:
        text, n_bad = clean_text(text)
        data = text.encode()
    if len(data) > config.max_document_bytes:
        return Document(name, None, n_bytes=len(data))
    lang, url = (str(facts.get(column) or "") for column in _FACTS)
    return Document(name, text, data, n_surrogates=n_bad, lang=lang, url=url)


# -- JSON lines ------------------------------------------------------------------------------------


def _read_jsonl(unit: Unit, config: TokenizeConfig) -> Iterator[Document]:
    limit = _LINE_PER_TEXT * config.max_document_bytes + 2**16
    with _open(unit.path) as file:
        for where, line, n_bytes in _lines(file, unit, limit):
            if line is None:
                yield Document(where, None, n_bytes=n_bytes)
                continue
            try:
                record = json.loads(line.decode("utf-8"))
            except UnicodeDecodeError as error:
                raise InputError(
                    f"{where}: not UTF-8 ({error.reason} at byte {error.start} of the line)",
                    "convert the file to UTF-8 first, for example with `iconv`",
                ) from error
            except ValueError as error:
                raise InputError(f"{where}: not a line of JSON ({error})") from error
            if not isinstance(record, dict) or config.text_column not in record:
                raise InputError(
                    f"{where}: a JSON object with the key `{config.text_column}` is needed",
                    "name the key with `--set tokenize.text_column=NAME`",
                )
            yield _document(record, record[config.text_column], where, config)


def _lines(file: IO[bytes], unit: Unit, limit: int) -> Iterator[tuple[str, bytes | None, int]]:
    """Yield `(place, line, bytes)` of lines that start in the unit's range; None for too long."""
    position = unit.start
    if unit.start:
        # The line that the range begins within belongs to the unit before.
        file.seek(unit.start - 1)
        position += _skip_line(file, limit) - 1
    n_line = 0
    from_byte = f" from byte {unit.start}" if unit.start else ""
    while unit.stop is None or position < unit.stop:
        try:
            line: bytes | None = file.readline(limit)
            n_bytes = len(line or b"")
            if line and not line.endswith(b"\n") and n_bytes == limit:
                line, n_bytes = None, n_bytes + _skip_line(file, limit)
        except (OSError, EOFError, zlib.error) as error:
            raise InputError(f"{unit.path}: damaged after line {n_line} ({error})") from error
        if n_bytes == 0:
            return
        n_line += 1
        position += n_bytes
        if line is None or line.strip():
            yield f"{Path(unit.path).name}:{n_line}{from_byte}", line, n_bytes


def _skip_line(file: IO[bytes], limit: int) -> int:
    """Read to the end of the line in bounded memory; return the bytes read."""
    n_bytes = 0
    while part := file.readline(limit):
        n_bytes += len(part)
        if part.endswith(b"\n"):
            break
    return n_bytes


@contextlib.contextmanager
def _open(path: str) -> Iterator[Any]:
    """Open a local or remote file for reading, uncompressed by its suffix."""
    with contextlib.ExitStack() as stack:
        try:
            if "://" in path:
                import fsspec

                raw = stack.enter_context(fsspec.open(path, "rb"))
            else:
                raw = stack.enter_context(Path(path).open("rb"))
        except OSError as error:
            raise InputError(f"{path}: cannot be read ({error.strerror or error})") from error
        if path.endswith(".gz"):
            import gzip

            raw = stack.enter_context(gzip.GzipFile(fileobj=raw))
        elif path.endswith(".zst"):
            raw = stack.enter_context(_zstd(raw))
        yield raw


def _zstd(raw: IO[bytes]) -> io.BufferedReader:
    import zstandard

    class Reader(io.RawIOBase):
        """zstandard's reader, with its error as an OSError and a cut-off end noticed."""

        def __init__(self) -> None:
            self._frames = zstandard.ZstdDecompressor().stream_reader(raw, read_across_frames=True)

        def readable(self) -> bool:
            return True

        def readinto(self, buffer: Any) -> int:
            try:
                return self._frames.readinto(buffer)
            except zstandard.ZstdError as error:
                raise OSError(str(error)) from error

    return io.BufferedReader(Reader(), buffer_size=1 << 20)
