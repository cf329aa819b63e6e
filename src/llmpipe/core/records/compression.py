"""Files unpacked: gzip, Zstandard or LZ4, told by their first bytes and not by their names.

Names lie: servers unpack `.gz` files on the way, and people pack files without renaming them.

What comes out are pieces: bytes, and a `Break` where bytes are missing. After a damaged gzip member the decoder
looks for the next place where a member begins that holds a record, says how many bytes lie between, and continues
there: one bad byte costs one record and not the rest of the file. A decoder of the standard library raises an error
there, and FastWARC and warcio end without a word at a truncated member; therefore the framing is ours.
"""

from __future__ import annotations

import codecs
import contextlib
import mmap
import resource
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO

from isal import isal_zlib

_CHUNK = 1 << 20
_LOOK_AHEAD = 1 << 16
_GZIP_MAGIC = b"\x1f\x8b\x08"
_ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
_LZ4_MAGIC = b"\x04\x22\x4d\x18"
_DICTIONARY_MAGIC = b"\x37\xa4\x30\xec"
_MAX_WINDOW = 1 << 31
"""What `zstd --long=31` asks for, the most there is. Memory is taken only for files that were packed so."""


@dataclass(frozen=True)
class Break:
    """A place where bytes are missing from the stream."""

    reason: str
    n_bytes: int
    """Bytes of the file, as stored, that could not be used."""


VERIFIED = b""
"""A piece that says: all bytes so far belong to members whose checksums fit."""

Piece = bytes | Break


def is_packed(file: BinaryIO) -> bool:
    """Tell by its first bytes whether a file that was just opened is compressed."""
    head = file.read(4)
    return head.startswith((_GZIP_MAGIC[:2], _ZSTD_MAGIC, _LZ4_MAGIC)) or _is_skippable(head)


def open_pieces(
    file: BinaryIO,
    starts_record: Callable[[bytes], bool] = bool,
    start: int = 0,
    is_named_packed: bool = False,
) -> Iterator[Piece]:
    """Decompress a file by its first bytes, a bounded number of bytes at a time.

    Args:
        file: open for reading, from its beginning. If it has a descriptor, damage is survived; of others, such as
            remote ones, what lies behind damage is lost.
        starts_record: tells whether decompressed bytes begin with a record; used to find the way back in
            after damage.
        start: of a file that is not compressed, the first byte that is wanted.
        is_named_packed: its name says that it is compressed. Then it is damaged if it is neither that nor text.
    """
    source = _Source(file)
    if start:
        source.go_to(start)
        yield from iter(lambda: source.read(_CHUNK), b"")
        return
    magic = source.peek(4)
    if magic.startswith(_GZIP_MAGIC[:2]):
        yield from _member_pieces(source, _GZIP, starts_record)
    elif magic == _ZSTD_MAGIC or _is_skippable(magic):
        codec = _zstd_codec(source)
        with _room_for_window(source.peek(18)):
            yield from _member_pieces(source, codec, starts_record)
    elif magic == _LZ4_MAGIC:
        yield from _lz4_pieces(file)
    elif is_named_packed and not _is_text(source.peek(1 << 12)):
        yield Break("unknown_compression", max(1, len(source.peek(1 << 12))))
    else:
        yield from iter(lambda: source.read(_CHUNK), b"")


def _is_text(head: bytes) -> bool:
    # Incremental, because the head may end within a letter.
    text = codecs.getincrementaldecoder("utf-8")("replace").decode(head)
    return not {"\0", "\ufffd"} & set(text)


class _Source:
    """The stored bytes of a file, in order, some of which can be put back."""

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.position = 0
        self._ahead = b""

    def read(self, n: int) -> bytes:
        """Return up to `n` bytes, none only at the end."""
        if self._ahead:
            data, self._ahead = self._ahead[:n], self._ahead[n:]
        else:
            data = self.file.read(n)
        self.position += len(data)
        return data

    def put_back(self, data: bytes) -> None:
        """Have the bytes read last come again."""
        self._ahead = data + self._ahead
        self.position -= len(data)

    def peek(self, n: int) -> bytes:
        """Return the next `n` bytes without passing them; fewer only at the end."""
        while len(self._ahead) < n and (more := self.file.read(max(n, _LOOK_AHEAD))):
            self._ahead += more
        return self._ahead[:n]

    def go_to(self, position: int) -> None:
        """Go on reading elsewhere."""
        self.file.seek(position)
        self.position, self._ahead = position, b""


# ---------------------------------------------------------------------------------------------
# Files of members: gzip and Zstandard


@dataclass(frozen=True)
class _Codec:
    """A compression whose files are members one after the other."""

    name: str
    magic: bytes
    make: Callable[[], Any]
    """Returns what unpacks one member: an object with the interface of `zlib.decompressobj()`."""
    error: type[Exception]
    read_bytes: int

    def begins(self, head: bytes) -> bool:
        """Tell whether a member begins here."""
        return head.startswith(self.magic[:2]) or (self.name == "zstd" and _is_skippable(head))


def _member_pieces(
    source: _Source, codec: _Codec, starts_record: Callable[[bytes], bool]
) -> Iterator[Piece]:
    while source.peek(1):
        start = source.position
        failure = yield from _one_member(source, codec)
        if failure is not None:
            reason, search_from = f"{failure}_{codec.name}", start + 1
        else:
            yield VERIFIED
            _skip_padding(source)
            start = search_from = source.position
            head = source.peek(4)
            if not head or codec.begins(head):
                continue
            reason = "garbage_between_members"
        following = _find_member(source.file, search_from, codec, starts_record)
        if following is None:
            yield Break(reason, max(1, source.position - start))
            return
        yield Break(reason, following - start)
        source.go_to(following)


def _one_member(source: _Source, codec: _Codec) -> Generator[bytes, None, str | None]:
    """Yield a member a bounded number of bytes at a time, so that a bomb never lies in memory whole.

    Returns:
        What is wrong with it; None if it is whole, and then the source stands behind it.
    """
    inflate = codec.make()
    pending = b""
    try:
        while not inflate.eof:
            if not pending and not (pending := source.read(codec.read_bytes)):
                return "truncated"
            chunk = inflate.decompress(pending, _CHUNK)
            pending = inflate.unconsumed_tail
            if chunk:
                yield chunk
    except codec.error:
        return "damaged"
    source.put_back(inflate.unused_data)
    return None


def _skip_padding(source: _Source) -> None:
    """Pass zero bytes after a member: tapes and block devices pad with them."""
    while (head := source.peek(1 << 12)) and not head.strip(b"\0"):
        source.read(len(head))
    source.read(len(head) - len(head.lstrip(b"\0")))


def _find_member(
    file: BinaryIO, start: int, codec: _Codec, starts_record: Callable[[bytes], bool]
) -> int | None:
    """Return where the next member with a record begins, or the end; None if the file cannot be searched."""
    try:
        descriptor = file.fileno()
    except (OSError, AttributeError):
        return None
    with mmap.mmap(descriptor, 0, access=mmap.ACCESS_READ) as data:
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
    _GZIP_MAGIC,
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


def _zstd_codec(source: _Source) -> _Codec:
    """Return how the frames are read; a dictionary in front of them is passed.

    WARC files of this kind may begin with a skippable frame that holds the dictionary of all others. The skippable
    frames of pzstd and of seekable files hold sizes, and are passed like members without content.
    Source: https://iipc.github.io/warc-specifications/specifications/warc-zstd/
    """
    import zstandard

    dictionary = None
    head = source.peek(12)
    if _is_skippable(head[:4]) and head[8:].startswith((_DICTIONARY_MAGIC, _ZSTD_MAGIC)):
        size = int.from_bytes(head[4:8], "little")
        content = source.peek(8 + size)[8:]
        source.read(8 + size)
        if content.startswith(_ZSTD_MAGIC):
            content = zstandard.ZstdDecompressor().decompress(content, max_output_size=1 << 24)
        dictionary = zstandard.ZstdCompressionDict(content)
    decompressor = zstandard.ZstdDecompressor(dict_data=dictionary, max_window_size=_MAX_WINDOW)
    return _Codec(
        "zstd", _ZSTD_MAGIC, lambda: _ZstdInflate(decompressor), zstandard.ZstdError, 1 << 12
    )


@contextlib.contextmanager
def _room_for_window(head: bytes) -> Iterator[None]:
    """Let the window of the frames not count against the limit of memory that a worker has for its records.

    The decoder keeps as much of the text as the packer looked back at: 8 MB as a rule, 2 GiB with `--long=31`.
    """
    import zstandard

    window = 0
    if head.startswith(_ZSTD_MAGIC):
        with contextlib.suppress(zstandard.ZstdError):
            window = zstandard.get_frame_parameters(head).window_size
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    if window > _MAX_WINDOW or soft == resource.RLIM_INFINITY:
        yield
        return
    wanted = soft + window + _CHUNK
    resource.setrlimit(
        resource.RLIMIT_AS, (wanted if hard == resource.RLIM_INFINITY else min(wanted, hard), hard)
    )
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def _is_skippable(magic: bytes) -> bool:
    return len(magic) >= 4 and magic[0] & 0xF0 == 0x50 and magic[1:4] == b"\x2a\x4d\x18"


# ---------------------------------------------------------------------------------------------
# LZ4


def _lz4_pieces(file: BinaryIO) -> Iterator[Piece]:
    """LZ4 frames through FastWARC; after damage the rest of the file is given up and counted."""
    from fastwarc.stream_io import Lz4Reader

    size = file.seek(0, 2)
    file.seek(0)
    reader = Lz4Reader(file)
    try:
        while chunk := reader.read(1 << 14):
            yield chunk
    except (OSError, ValueError):
        yield Break("damaged_lz4", max(1, size - file.tell()))
