"""The addresses in a sitemap (sitemaps.org): XML, an RSS or Atom feed, or text with one address a line; plain or gzip.

A map may be 50 MB, and a hostile one may be anything, so it is read in pieces, without a tree, in memory that does not grow.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterable, Iterator
from itertools import chain
from typing import BinaryIO

from llmpipe.core.http_message import GZIP_MAGIC, READ_BYTES, read_up_to, undo_codings

MAX_MAP_BYTES = 50 * 2**20
"""What a map may be when it is decompressed. Source: sitemaps.org, "XML tag definitions"."""
LONGEST = 2**13
"""More text than this, in characters, is no address."""

LONGEST_MARK = 40
"""More than an entity or the beginning or the end of CDATA has, in bytes."""
DEEPEST = 50
"""Elements nested deeper are not looked at; those of a map are five deep at most."""

_LONE_AMPERSAND = re.compile(rb"&(?!#?\w{1,31};)")
_MAY_GO_ON = re.compile(rb"[&<\]]")
_LINE_ENDS = re.compile(r"\r\n|\r|\n")


class SitemapReader:
    """Iterates over (whether it is a further map, address as written).

    Args:
        file: the body of the response, at its beginning.
        content_encoding: the header of that name.
        is_cut: more was sent than is in the file.

    Attributes:
        damage: what ended the map early; None if it came whole.

    Raises:
        UnknownCodingError: it is compressed in a way that cannot be undone here.
    """

    def __init__(self, file: BinaryIO, content_encoding: str, is_cut: bool = False) -> None:
        self.damage: str | None = None
        self._is_cut = is_cut
        start, _ = read_up_to(undo_codings(file, content_encoding), 2)
        file.seek(0)
        if not start and file.read(READ_BYTES).lstrip().startswith(b"<"):
            content_encoding = ""  # it was sent as it is
        file.seek(0)
        # A file that is gzip itself may be sent with another one around it, by servers that compress everything.
        codings = f"gzip, {content_encoding}" if start == GZIP_MAGIC else content_encoding
        self._reader = undo_codings(file, codings)

    def __iter__(self) -> Iterator[tuple[bool, str]]:
        """Yield what the map holds, in order, up to the end or the damage."""
        given = self._pieces()
        start = next(given)
        encoding = _wide_encoding(start)
        pieces: Iterator[bytes] = chain([start.removeprefix(codecs.BOM_UTF8)], given)
        if encoding is not None:
            pieces = _as_utf8(pieces, encoding)
        first = b""
        for piece in pieces:
            first = (first + piece).lstrip()
            if first:
                break
        pieces = chain([first], pieces)
        if first.startswith(b"<"):
            yield from self._of_xml(pieces, encoding and "utf-8")
        else:
            yield from self._of_text(pieces)

    def _of_text(self, pieces: Iterable[bytes]) -> Iterator[tuple[bool, str]]:
        decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        rest = ""
        for piece in pieces:
            *lines, rest = _LINE_ENDS.split(rest + decoder.decode(piece))
            rest = rest[:LONGEST]
            yield from ((False, line) for line in lines if line.strip())
        if rest.strip() and self.damage is None:  # half an address is another address
            yield False, rest

    def _of_xml(self, pieces: Iterable[bytes], encoding: str | None) -> Iterator[tuple[bool, str]]:
        import lxml.etree

        entries = _Entries()
        # Entities that the map itself defines are put in (libxml2 stops those that multiply); none is fetched.
        parser = lxml.etree.XMLParser(
            target=entries,
            encoding=encoding,
            recover=True,
            resolve_entities="internal",
            no_network=True,
        )
        try:
            for piece in _mended(pieces):
                parser.feed(piece)
                yield from entries.take()
            if self.damage is None:
                parser.close()
        except lxml.etree.LxmlError as error:
            self.damage = f"no XML from here on: {error}"
        yield from entries.take()

    def _pieces(self) -> Iterator[bytes]:
        n_bytes = 0
        while True:
            piece, is_whole = read_up_to(self._reader, READ_BYTES)
            yield piece[: MAX_MAP_BYTES - n_bytes]
            n_bytes += len(piece)
            if n_bytes > MAX_MAP_BYTES:
                self.damage = f"only its first {MAX_MAP_BYTES} bytes were read"
            elif not is_whole:
                self.damage = f"its compressed body is damaged or cut after {n_bytes} bytes"
            elif len(piece) == READ_BYTES:
                continue
            elif self._is_cut:
                self.damage = f"only its first {MAX_MAP_BYTES} bytes were read"
            return


def _wide_encoding(start: bytes) -> str | None:
    """Recognize UTF-16, with a mark or without: what begins a map is ASCII."""
    if start.startswith(codecs.BOM_UTF16_LE) or (start[1:2] == b"\0" and start[:1] != b"\0"):
        return "utf-16-le"
    if start.startswith(codecs.BOM_UTF16_BE) or (start[:1] == b"\0" and start[1:2] != b"\0"):
        return "utf-16-be"
    return None


def _as_utf8(pieces: Iterable[bytes], encoding: str) -> Iterator[bytes]:
    decoder = codecs.getincrementaldecoder(encoding)(errors="replace")
    for piece in pieces:
        yield decoder.decode(piece).replace("\ufeff", "").encode("utf-8", "replace")


def _mended(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """Write `&` as XML wants it where a writer of addresses forgot to; in CDATA it is right as it is."""
    rest, is_cdata = b"", False
    for piece in chain(pieces, [b""]):
        rest += piece
        cut = _MAY_GO_ON.search(rest, max(len(rest) - LONGEST_MARK, 0)) if piece else None
        end = cut.start() if cut else len(rest)
        text, rest = rest[:end], rest[end:]
        while text:
            before, mark, text = text.partition(b"]]>" if is_cdata else b"<![CDATA[")
            yield before if is_cdata else _LONE_AMPERSAND.sub(b"&amp;", before)
            yield mark
            is_cdata ^= bool(mark)


_WHERE = {"url": "loc", "sitemap": "loc", "item": "link", "entry": "link"}
"""Entry -> the element in it that holds its address."""


class _Entries:
    """What lxml's parser reports to: collects the addresses of finished entries, whatever their namespace.

    An entry is a `url` or `sitemap` with a `loc`, an `item` of RSS with a `link` (or a `guid` that is one), or an `entry` of
    Atom with a `link` that has an `href`. A `loc` of an image or a video is in an element of its own, and no entry.
    """

    def __init__(self) -> None:
        self._found: list[tuple[bool, str]] = []
        self._path: list[str] = []
        self._n_below = 0  # elements that are open, deeper than any of a map
        self._entry: dict[str, str] = {}
        self._text: list[str] = []
        self._n_text = 0

    def start(self, tag: str, attributes: dict[str, str]) -> None:
        name = _local_name(tag)
        parent = self._path[-1] if self._path else ""
        if self._n_below or len(self._path) == DEEPEST:
            self._n_below += 1
            return
        self._path.append(name)
        self._text, self._n_text = [], 0
        if name in _WHERE:
            self._entry = {}
        elif name == "link" and parent == "entry":
            if attributes.get("rel", "alternate") == "alternate" and "href" in attributes:
                self._entry.setdefault("link", attributes["href"])
        elif name == "guid" and attributes.get("isPermaLink") == "false":
            self._path[-1] = ""

    def data(self, text: str) -> None:
        if self._n_text < LONGEST:
            self._text.append(text)
            self._n_text += len(text)

    def end(self, tag: str) -> None:
        if self._n_below:
            self._n_below -= 1
            return
        name = self._path.pop() if self._path else ""
        parent = self._path[-1] if self._path else ""
        if name in ("loc", "link", "guid") and parent in _WHERE:
            self._entry.setdefault(name, "".join(self._text).strip())
            if not self._entry[name]:
                del self._entry[name]
        elif name in _WHERE:
            address = self._entry.get(_WHERE[name]) or self._entry.get("guid", "")
            self._found.append((name == "sitemap", address))
            self._entry = {}

    def close(self) -> None:
        pass

    def take(self) -> list[tuple[bool, str]]:
        """Return what was collected since the last time."""
        found, self._found = self._found, []
        return found


def _local_name(tag: str) -> str:
    return tag.rpartition("}")[2].rpartition(":")[2].lower()
