"""Lines of files, and the JSON in them, one after the other in bounded memory."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from llmpipe.core.errors import InputError
from llmpipe.core.records.compression import Break, Piece, open_pieces
from llmpipe.core.records.files import is_named_packed, open_binary

T = TypeVar("T")

Row = dict[str, Any]
PlacedRow = tuple[str, Row]
"""Where a row stands, as FILE:LINE or FILE: row N, and its values by name."""

MAX_LINE_BYTES = 1 << 28
"""Longest line that is held, where the caller sets no other limit."""
_BOM = b"\xef\xbb\xbf"
"""The byte-order mark that editors of Windows write in front of UTF-8."""


@dataclass(frozen=True)
class Unreadable:
    """A row that cannot be used, or a stretch of a file."""

    where: str
    """FILE:LINE, FILE: row N, or FILE."""
    reason: str
    """A short name, to count by."""
    n_bytes: int = 0
    """Its size, where it is known."""
    is_damage: bool = False
    """The file is damaged here, and not only a row of another form than it should have."""
    detail: str = ""
    """The reason in words, where there is more to say."""

    @property
    def said(self) -> str:
        """The reason for people."""
        return self.detail or self.reason

    def __str__(self) -> str:
        return f"{self.where}: {self.said}"


def intact(rows: Iterable[T | Unreadable]) -> Iterator[T | Unreadable]:
    """Pass rows on, good and bad ones, as long as the file is not damaged.

    Raises:
        InputError: naming the file that is.
    """
    for row in rows:
        if isinstance(row, Unreadable) and row.is_damage:
            raise InputError(f"`{row.where}` cannot be read: {row.said}")
        yield row


def whole(rows: Iterable[T | Unreadable]) -> Iterator[T]:
    """Pass rows on where every one is needed.

    Raises:
        InputError: naming the first that cannot be used.
    """
    for row in intact(rows):
        if isinstance(row, Unreadable):
            raise InputError(str(row))
        yield row


def read_lines(
    path: str | Path,
    label: str | None = None,
    max_bytes: int = MAX_LINE_BYTES,
    start: int = 0,
    stop: int | None = None,
) -> Iterator[tuple[str, bytes] | Unreadable]:
    """Read the lines of a file, packed or not, that are not blank.

    Args:
        path: the file, or its address.
        label: what places are named after; without it, the path.
        max_bytes: a longer line is passed over in bounded memory, and is unreadable.
        start: of a file that is not packed, read the lines that begin at this byte or later.
        stop: and before this one: ranges that meet have every line once.

    Yields:
        The place and the line, without its line break, and without a byte-order mark.

    Raises:
        InputError: the file cannot be opened.
    """
    label = str(path) if label is None else label
    origin = f" from byte {start}" if start else ""
    with open_binary(path) as file:
        # The line that a range begins within belongs to the range before: so look one byte back.
        position, n_line = max(0, start - 1), -1 if start else 0
        pieces = open_pieces(file, start=position, is_named_packed=is_named_packed(path))
        for line in _split(pieces, max_bytes):
            if isinstance(line, Break):
                yield Unreadable(label, line.reason, line.n_bytes, is_damage=True)
                continue
            if stop is not None and position >= stop:
                return
            n_bytes, content = line
            position += n_bytes
            n_line += 1
            if n_line == 0:
                continue
            where = f"{label}:{n_line}{origin}"
            if isinstance(content, str):
                yield Unreadable(where, content, n_bytes)
                continue
            if n_line == 1 and not start:
                content = content.removeprefix(_BOM)
            if not content.isspace() and content:
                yield where, content


def _split(pieces: Iterable[Piece], max_bytes: int) -> Iterator[tuple[int, bytes | str] | Break]:
    """Yield the size of each line, and the line or the reason why there is none."""
    parts: list[bytes] = []
    size, is_cut = 0, False
    for piece in pieces:
        if isinstance(piece, Break):
            if size:
                yield size, "cut_line"
            parts, size, is_cut = [], 0, True  # the next line has no beginning
            yield piece
            continue
        at = 0
        while end := piece.find(b"\n", at) + 1:
            size += end - at
            if parts or is_cut or size > max_bytes:
                parts.append(piece[at:end])
                yield size, _join(parts, size, is_cut, max_bytes)
                parts, is_cut = [], False
            else:
                yield size, piece[at : end - 1]
            size, at = 0, end
        size += len(piece) - at
        parts.append(piece[at:])
        if is_cut or size > max_bytes:
            parts.clear()  # nobody will want it
    if size:
        yield size, _join(parts, size, is_cut, max_bytes)


def _join(parts: list[bytes], size: int, is_cut: bool, max_bytes: int) -> bytes | str:
    if is_cut:
        return "cut_line"
    return "over_limit" if size > max_bytes else b"".join(parts).removesuffix(b"\n")


def read_json_lines(
    path: str | Path,
    label: str | None = None,
    max_bytes: int = MAX_LINE_BYTES,
    start: int = 0,
    stop: int | None = None,
) -> Iterator[PlacedRow | Unreadable]:
    """Read the objects of a file of JSON lines; see `read_lines`."""
    for line in read_lines(path, label, max_bytes, start, stop):
        if isinstance(line, Unreadable):
            yield line
            continue
        where, content = line
        try:
            row = parse_object(content)
        except ValueError as error:
            yield Unreadable(where, "bad_json", len(content), detail=str(error))
        else:
            yield where, row


def read_objects(path: str | Path) -> list[Row]:
    """Read a file of JSON lines of which every one is needed, such as those that stages write."""
    return [row for _, row in whole(read_json_lines(path))]


def parse_object(line: bytes) -> Row:
    """Read a line of JSON.

    Raises:
        ValueError: saying why it is none, or that it is no object.
    """
    try:
        # Halves of UTF-16 pairs that somebody encoded one by one are let through: who keeps texts replaces them.
        value = json.loads(line.decode("utf-8", "surrogatepass"))
    except UnicodeDecodeError as error:
        raise ValueError(f"not UTF-8 ({error.reason} at byte {error.start} of the line)") from None
    except (ValueError, RecursionError) as error:
        raise ValueError(f"not JSON: {getattr(error, 'msg', error)}") from None
    if not isinstance(value, dict):
        raise ValueError(f"expected an object, got {type(value).__name__}")
    return value
