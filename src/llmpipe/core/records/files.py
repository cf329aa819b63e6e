"""From names to open files: folders, patterns and addresses expanded, and opened wherever they lie."""

from __future__ import annotations

import glob
import io
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any, BinaryIO

from llmpipe.core.errors import InputError
from llmpipe.core.records.compression import Break, open_pieces
from llmpipe.core.remote import RemoteFile, open_filesystem, patiently

PACKED = (".gz", ".zst", ".lz4")
"""Endings that say how a file is packed. What it is packed with is told by its first bytes alone."""


def ending_of(name: str | Path, known: Collection[str]) -> str | None:
    """Return which of the known endings a name has, as `.jsonl` of `a.jsonl.gz` or of `https://x.org/a.JSONL?v=1`."""
    base = str(name).lower()
    if "://" in base:
        base = base.partition("?")[0]
    for packed in PACKED:
        base = base.removesuffix(packed)
    return next((ending for ending in known if base.endswith(ending)), None)


def is_named_packed(name: str | Path) -> bool:
    """Tell whether a name says that the file is packed."""
    return str(name).lower().endswith(PACKED)


def expand(names: Iterable[str], endings: Collection[str]) -> list[str]:
    """Return the files that names stand for: each name's in order, sorted where it stands for several.

    Args:
        names: files; folders, of which everything with a known ending is taken, but for hidden files; patterns with
            `*`; addresses, which may have a `*` too; and `hf:` names of data sets, which stay as they are.
        endings: those that are looked for in folders.

    Raises:
        InputError: a name stands for nothing.
    """
    found: list[str] = []
    for name in names:
        if "://" in name or name.startswith("hf:"):
            inside = _expand_address(name)
        elif Path(name).is_file():
            inside = [name]
        elif Path(name).is_dir():
            inside = [
                str(path)
                for path in Path(name).rglob("[!.]*")
                if ending_of(path.name, endings) and path.is_file()
            ]
            if not inside:
                raise InputError(
                    f"the folder `{name}` holds no input", f"known endings: {', '.join(endings)}"
                )
        else:
            matches = glob.glob(name, recursive=True)  # noqa: PTH207  Path.glob takes no absolute pattern
            inside = [path for path in matches if Path(path).is_file()]
        if not inside:
            is_pattern = "://" in name or glob.has_magic(name)
            what = "no file fits" if is_pattern else "there is no file or folder"
            raise InputError(f"{what} `{name}`")
        found += sorted(inside)
    return found


def _expand_address(name: str) -> list[str]:
    if "*" not in name or name.startswith("hf:"):
        return [name]
    filesystem, pattern = open_filesystem(name)
    matches = patiently(name, lambda: filesystem.glob(pattern))
    return [str(filesystem.unstrip_protocol(match)) for match in matches]


def check_endings(names: Iterable[str], endings: Collection[str]) -> None:
    """Refuse files that nothing here can read, before any is.

    Raises:
        InputError: naming the first of them, and the known endings.
    """
    for name in names:
        if ending_of(name, endings) is None:
            raise InputError(
                f"`{name}`: the kinds of file read here are {', '.join(endings)}, "
                f"plain or packed ({', '.join(PACKED)})"
            )


def open_binary(name: str | Path) -> BinaryIO:
    """Open a local file, or one at an address, for reading as it is stored.

    Raises:
        InputError: it cannot be opened.
    """
    if "://" in str(name):
        return io.BufferedReader(RemoteFile(str(name)), 1 << 20)
    try:
        return Path(name).open("rb")
    except OSError as error:
        raise InputError(f"`{name}` cannot be read: {error.strerror or error}") from None


def open_stream(name: str | Path) -> BinaryIO:
    """Open a file, local or at an address, packed or not, for reading what is in it from the beginning to the end.

    Raises:
        InputError: it cannot be opened; or, from a read, it is damaged.
    """
    return io.BufferedReader(_Unpacked(name), 1 << 20)


class _Unpacked(io.RawIOBase):
    """The pieces of a file as one stream, where nothing may be missing."""

    def __init__(self, name: str | Path) -> None:
        self._name = name
        self._file = open_binary(name)
        self._pieces = open_pieces(self._file, is_named_packed=is_named_packed(name))
        self._ahead = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._ahead:
            piece = next(self._pieces, None)
            if piece is None:
                return 0
            if isinstance(piece, Break):
                raise InputError(f"`{self._name}` cannot be read: {piece.reason}")
            self._ahead = piece
        n = min(len(buffer), len(self._ahead))
        buffer[:n], self._ahead = self._ahead[:n], self._ahead[n:]
        return n

    def close(self) -> None:
        self._file.close()
        super().close()
