"""Decompressed bytes of an archive that go on after damage.

A decoder is a generator of `bytes` and `Break`s. After a damaged gzip member it looks for the next place
where a member begins that holds a record, says how many bytes lie between, and continues there: one bad
byte costs one record and not the rest of the file. FastWARC and warcio stop at that place, and both end
without a word at a truncated member; therefore the framing is ours, and FastWARC lends its LZ4 decoder.
"""

from __future__ import annotations

import mmap
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO, Protocol

from isal import isal_zlib

_CHUNK = 1 << 20
GZIP_MAGIC = b"\x1f\x8b\x08"
ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
LZ4_MAGIC = b"\x04\x22\x4d\x18"


@dataclass(frozen=True)
class Break:
    """A place where bytes are missing from the stream."""

    reason: str
    n_bytes: int
    """Bytes of the file, as stored, that could not be used."""


VERIFIED = b""
"""A piece that says: all bytes so far belong to members whose checksums fit."""

Piece = bytes | Break


def open_pieces(file: BinaryIO, starts_record: Callable[[bytes], bool]) -> Iterator[Piece]:
    """Decompress a file by its first bytes: gzip, Zstandard, LZ4, or not compressed.

    Args:
        file: an open file with a descriptor.
        starts_record: tells whether decompressed bytes begin with a record; used to find the way back in
            after damage.
    """
    if not file.seek(0, 2):
        return
    with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        magic = data[:4]
        if magic.startswith(GZIP_MAGIC[:2]):
            yield from _member_pieces(data, 0, _GZIP, starts_record)
        elif magic == ZSTD_MAGIC or _is_skippable(magic):
            start, codec = _zstd_codec(data)
            yield from _member_pieces(data, start, codec, starts_record)
        elif magic == LZ4_MAGIC:
            yield from _lz4_pieces(file, data)
        else:
            for start in range(0, len(data), _CHUNK):
                yield data[start : start + _CHUNK]


class _Inflate(Protocol):
    """The interface of zlib's decompression objects."""

    @property
    def eof(self) -> bool: ...

    @property
    def unused_data(self) -> bytes: ...

    @property
    def unconsumed_tail(self) -> bytes: ...

    def decompress(self, data: bytes, max_length: int, /) -> bytes: ...


@dataclass(frozen=True)
class _Codec:
    """A compression whose files are members one after the other."""

    name: str
    magic: bytes
    make: Callable[[], _Inflate]
    error: type[Exception]
    read_bytes: int


def _member_pieces(
    data: mmap.mmap, position: int, codec: _Codec, starts_record: Callable[[bytes], bool]
) -> Iterator[Piece]:
    while position < len(data):
        start = position
        member = _Member(data, start, codec)
        yield from member.chunks()
        if member.failure is not None:
            position = _find_member(data, start + 1, codec, starts_record)
            yield Break(f"{member.failure}_{codec.name}", position - start)
            continue
        yield VERIFIED
        position = _skip_padding(data, member.end)
        if position < len(data) and data[position : position + 2] != codec.magic[:2]:
            following = _find_member(data, position, codec, starts_record)
            yield Break("garbage_between_members", following - position)
            position = following


class _Member:
    """One member; after `chunks()` is exhausted, `end` or `failure` is set."""

    def __init__(self, data: mmap.mmap, start: int, codec: _Codec) -> None:
        self._data = data
        self._start = start
        self._codec = codec
        self.end = start
        self.failure: str | None = None

    def chunks(self) -> Iterator[bytes]:
        """Yield a bounded number of bytes at a time, so that a bomb never lies in memory whole."""
        inflate = self._codec.make()
        position, pending = self._start, b""
        try:
            while not inflate.eof:
                if not pending:
                    pending = self._data[position : position + self._codec.read_bytes]
                    position += len(pending)
                    if not pending:
                        self.failure = "truncated"
                        return
                chunk = inflate.decompress(pending, _CHUNK)
                pending = inflate.unconsumed_tail
                if chunk:
                    yield chunk
        except self._codec.error:
            self.failure = "damaged"
            return
        self.end = position - len(inflate.unused_data)


def _skip_padding(data: mmap.mmap, position: int) -> int:
    """Pass zero bytes after a member: tapes and block devices pad with them."""
    while position < len(data) and data[position] == 0:
        position += 1
    return position


def _find_member(
    data: mmap.mmap, start: int, codec: _Codec, starts_record: Callable[[bytes], bool]
) -> int:
    """Return where the next member with a record begins, or the end of the data."""
    while (start := data.find(codec.magic, start)) >= 0:
        try:
            head = codec.make().decompress(data[start : start + codec.read_bytes], 512)
        except codec.error:
            head = b""
        if starts_record(head):
            return start
        start += 1
    return len(data)


_GZIP = _Codec(
    "gzip",
    GZIP_MAGIC,
    lambda: isal_zlib.decompressobj(16 + isal_zlib.MAX_WBITS),  # twice as fast as zlib
    isal_zlib.IsalError,  # type: ignore[arg-type]  # its stub says an exception, and means a class
    read_bytes=1 << 16,
)


class _ZstdInflate:
    """A Zstandard frame with the interface of zlib. It cannot bound its output, so its input is small."""

    unconsumed_tail = b""

    def __init__(self, decompressor: Any) -> None:
        self._frame = decompressor.decompressobj()

    @property
    def eof(self) -> bool:
        return bool(self._frame.eof)

    @property
    def unused_data(self) -> bytes:
        return bytes(self._frame.unused_data)

    def decompress(self, data: bytes, max_length: int, /) -> bytes:
        return bytes(self._frame.decompress(data))


def _zstd_codec(data: mmap.mmap) -> tuple[int, _Codec]:
    """Return where the frames begin, and how to read them.

    WARC files of this kind may begin with a skippable frame that holds the dictionary of all others.
    Source: https://iipc.github.io/warc-specifications/specifications/warc-zstd/
    """
    import zstandard

    start, dictionary = 0, None
    if _is_skippable(data[:4]):
        size = int.from_bytes(data[4:8], "little")
        start, content = 8 + size, data[8 : 8 + size]
        if content.startswith(ZSTD_MAGIC):
            content = zstandard.ZstdDecompressor().decompress(content, max_output_size=1 << 24)
        dictionary = zstandard.ZstdCompressionDict(content)
    decompressor = zstandard.ZstdDecompressor(dict_data=dictionary)
    codec = _Codec(
        "zstd", ZSTD_MAGIC, lambda: _ZstdInflate(decompressor), zstandard.ZstdError, 1 << 12
    )
    return start, codec


def _is_skippable(magic: bytes) -> bool:
    return len(magic) == 4 and magic[0] & 0xF0 == 0x50 and magic[1:] == b"\x2a\x4d\x18"


def _lz4_pieces(file: BinaryIO, data: mmap.mmap) -> Iterator[Piece]:
    """LZ4 frames through FastWARC; after damage the rest of the file is given up and counted."""
    from fastwarc.stream_io import Lz4Reader

    file.seek(0)
    reader = Lz4Reader(file)
    try:
        while chunk := reader.read(1 << 14):
            yield chunk
    except (OSError, ValueError):
        yield Break("damaged_lz4", max(1, len(data) - file.tell()))


class Stream:
    """A buffer over pieces: look ahead, take, search. It stops at a break until that is taken."""

    def __init__(self, pieces: Iterator[Piece]) -> None:
        self._pieces = pieces
        self._buffer = bytearray()
        self._start = 0
        self._position = 0
        self._verified = 0
        self._break: Break | None = None
        self._ended = False

    def __len__(self) -> int:
        return len(self._buffer) - self._start

    def fill(self, n: int) -> bool:
        """Have at least `n` bytes ahead; False if a break or the end comes before."""
        while len(self) < n and self._break is None and not self._ended:
            piece = next(self._pieces, None)
            if piece is None:
                self._ended = True
            elif isinstance(piece, Break):
                self._break = piece
            elif not piece:
                self._verified = self._position + len(self)
            else:
                if self._start:
                    del self._buffer[: self._start]
                    self._start = 0
                self._buffer += piece
        return len(self) >= n

    def peek(self, n: int) -> bytes:
        """Return up to `n` bytes without taking them."""
        self.fill(n)
        return bytes(self._buffer[self._start : self._start + n])

    def take(self, n: int) -> bytes:
        """Return up to `n` bytes; fewer only before a break or the end."""
        data = self.peek(n)
        self._pass(len(data))
        return data

    def skip(self, n: int) -> int:
        """Pass `n` bytes without holding them; returns how many there were."""
        left = n
        while left and self.fill(1):
            step = min(left, len(self))
            self._pass(step)
            left -= step
        return n - left

    def push_back(self, data: bytes) -> None:
        """Put bytes back in front of the stream."""
        self._buffer[: self._start] = data
        self._start = 0
        self._position -= len(data)

    def skip_line_ends(self) -> None:
        """Pass the empty lines between records."""
        while self.fill(1) and self._buffer[self._start] in b"\r\n":
            self._pass(1)

    def find(self, pattern: bytes, limit: int) -> int:
        """Return the distance to the end of `pattern`, or -1 if it does not end within `limit` bytes."""
        searched, size = 0, 1 << 12
        while True:
            self.fill(min(size, limit))
            at = self._buffer.find(pattern, self._start + searched, self._start + limit)
            if at >= 0:
                return at - self._start + len(pattern)
            if len(self) < size or size >= limit:
                return -1
            searched, size = max(0, len(self) - len(pattern)), size * 4

    @property
    def is_verified(self) -> bool:
        """Whether a checksum has confirmed everything that was taken."""
        return self._position <= self._verified

    @property
    def at_break(self) -> Break | None:
        """The break that comes directly after what was taken, if any."""
        return self._break if not self.fill(1) else None

    def take_break(self) -> Break | None:
        """Pass the break ahead and return it."""
        found, self._break = self.at_break, None
        return found

    def _pass(self, n: int) -> None:
        self._start += n
        self._position += n
