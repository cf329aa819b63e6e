"""Writes WARC 1.1 files (ISO 28500:2017): one gzip member per record, split by size.

warcio makes the records, ids and digests. It would also parse HTTP heads and write them anew, in its
own spelling, so it is handed the received bytes as a head that is already rendered.
"""

from __future__ import annotations

import hashlib
import os
import zlib
from base64 import b32encode
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

from warcio.statusandheaders import StatusAndHeaders
from warcio.warcwriter import WARCWriter

import llmpipe
from llmpipe.stages.crawl.fetch import Response

READ_BYTES = 2**14
REVISIT_PROFILE = (
    "http://netpreserve.org/warc/1.1/revisit/identical-payload-digest"  # WARC 1.1, section 6.7.2
)


@dataclass(frozen=True, order=True)
class Position:
    """A place in a series of WARC files: bytes into the i-th file."""

    i_file: int
    offset: int


@dataclass(frozen=True)
class Stored:
    """A body in the WARC files: under which address, from when, and its digest."""

    url: str
    date: str
    digest: str


def payload_digest(body: bytes) -> str:
    """Return what `WARC-Payload-Digest` says of a body."""
    return "sha1:" + b32encode(hashlib.sha1(body).digest()).decode()


def _revisit_fields(same_as: Stored) -> dict[str, str]:
    """Say where the body is that is not stored again. Source: WARC 1.1, section 6.7.2."""
    return {
        "WARC-Profile": REVISIT_PROFILE,
        "WARC-Payload-Digest": same_as.digest,
        "WARC-Refers-To-Target-URI": same_as.url,
        "WARC-Refers-To-Date": same_as.date,
    }


class _RawHead(StatusAndHeaders):  # type: ignore[misc]  # warcio has no types
    """An HTTP head as received, which warcio writes as it is."""

    def __init__(self, head: bytes) -> None:
        super().__init__("as received", [])  # warcio takes an empty head for none
        self.headers_buff = head

    def compute_headers_buffer(self, header_filter: Any = None) -> None:
        """Keep the bytes."""


class WarcFolder:
    """A series of WARC files, `crawl-00000.warc.gz` and on.

    Args:
        folder: where they are.
        position: where to go on; everything behind it is removed.
        max_bytes: a file that has reached this size is followed by a new one.
        about: what the warcinfo record at the head of each file says of the crawl.
    """

    def __init__(
        self, folder: Path, position: Position, max_bytes: int, about: dict[str, str]
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._max_bytes = max_bytes
        self._about = about
        self._i_file = position.i_file
        for path in sorted(folder.glob("crawl-*.warc.gz")):
            if path > self._path(position.i_file):
                path.unlink()
        self._file = self._open()
        self._file.truncate(position.offset)
        self._file.seek(0, os.SEEK_END)
        self._begin_file()

    @property
    def position(self) -> Position:
        """Where the files end now."""
        return Position(self._i_file, self._file.tell())

    def write(self, response: Response, same_as: Stored | None = None) -> Stored:
        """Append a request record, and a response record or, if its body is stored already, a revisit record."""
        if self._file.tell() >= self._max_bytes:
            self.close()
            self._i_file += 1
            self._file = self._open()
            self._begin_file()
        common = {
            "WARC-Date": response.fetched_at.strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
            "WARC-IP-Address": response.ip,
        }
        stored = Stored(response.url, common["WARC-Date"], payload_digest(response.body))
        if same_as is None:
            answer = self._record("response", response, response.head, response.body, common)
        else:
            assert same_as.digest == stored.digest
            answer = self._record(
                "revisit", response, response.head, b"", common | _revisit_fields(same_as)
            )
        common["WARC-Concurrent-To"] = answer.rec_headers.get_header("WARC-Record-ID")
        question = self._record("request", response, response.request_head, b"", common)
        self._writer.write_record(question)
        self._writer.write_record(answer)
        return stored

    def sync(self) -> None:
        """Make what was written survive a power cut."""
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Make everything durable and close the file."""
        self.sync()
        self._file.close()

    def _path(self, i_file: int) -> Path:
        return self._folder / f"crawl-{i_file:05d}.warc.gz"

    def _open(self) -> BinaryIO:
        path = self._path(self._i_file)
        path.touch()
        return path.open("r+b")

    def _begin_file(self) -> None:
        self._writer = WARCWriter(self._file, gzip=True, warc_version="WARC/1.1")
        if self._file.tell() == 0:
            name = self._path(self._i_file).name
            self._writer.write_record(self._writer.create_warcinfo_record(name, self._about))

    def _record(
        self, kind: str, response: Response, head: bytes, body: bytes, headers: dict[str, str]
    ) -> Any:
        return self._writer.create_warc_record(
            response.url,
            kind,
            payload=BytesIO(body),
            length=len(body),
            http_headers=_RawHead(head),
            warc_headers_dict=headers,
        )


def about_crawl(user_agent: str) -> dict[str, str]:
    """Return the fields of a warcinfo record."""
    return {
        "software": f"llmpipe/{llmpipe.__version__}",
        "format": "WARC File Format 1.1",
        "conformsTo": "https://iipc.github.io/warc-specifications/specifications/warc-format/warc-1.1/",
        "robots": "obey",
        "http-header-user-agent": user_agent,
    }


def end_of_whole_members(path: Path) -> int:
    """Return where the last whole gzip member of a file ends; their checksums are verified."""
    end = 0
    with path.open("rb") as file:
        member = zlib.decompressobj(wbits=16 + zlib.MAX_WBITS)
        while piece := file.read(READ_BYTES):
            try:
                while piece:
                    member.decompress(piece)
                    piece = member.unused_data
                    if member.eof:
                        end = file.tell() - len(piece)
                        member = zlib.decompressobj(wbits=16 + zlib.MAX_WBITS)
            except zlib.error:
                return end
    return end


def last_whole_position(folder: Path) -> Position:
    """Return where the readable part of a series of WARC files ends.

    Files before the last were made durable when it was begun, so only the last is read.
    """
    paths = sorted(folder.glob("crawl-*.warc.gz"))
    if not paths:
        return Position(0, 0)
    return Position(len(paths) - 1, end_of_whole_members(paths[-1]))
