"""WARC and ARC records out of a stream, each good or counted with its reason.

    Record   a whole record, its block as stored
    Bad      something that could not be used, with a reason and the bytes passed over

A record is trusted when it ends as records do, or the next thing after it is a record or the end. If there is
damage behind it, then only if a checksum or digest covers it. After a wrong length, the search for the next record begins inside
the block that was read, so that a length that is too large does not swallow the neighbor.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from llmpipe.stages.data.sources.stream import Stream

_MAX_HEADER = 1 << 16
_WARC_START = re.compile(rb"WARC/\d", re.I)
_ARC_START = re.compile(
    rb"(?:filedesc|https?|ftp|dns):[^\n]{1,8000} (\d{14}|\d{12}|\d{8}) [^\n ]{1,200}(?: [^\n ]*){0,6} \d{1,12}\r?\n"
)
_NEXT_WARC = re.compile(rb"(?:^|\n)(?=WARC/\d\.\d)", re.I)
_NEXT_ARC = re.compile(
    rb"\n(?=(?:https?|ftp|dns):[^\n]{1,2000} \d{14} [^\n ]{1,200}(?: [^\n ]*){0,6} \d{1,12}\r?\n)"
)


@dataclass(frozen=True)
class Record:
    """One record of an archive."""

    kind: str
    """The WARC type: response, resource, conversion, request, warcinfo, …; ARC has only `response`."""
    url: str
    date: str
    content_type: str
    headers: Mapping[str, str]
    """Names in lower case."""
    block: bytes = b""


@dataclass(frozen=True)
class Bad:
    """A record, or bytes where one was expected, that cannot be used."""

    reason: str
    n_bytes: int
    url: str = ""


def starts_record(head: bytes) -> bool:
    """Tell whether bytes begin with a WARC or ARC record."""
    return bool(_WARC_START.match(head) or _ARC_START.match(head))


def read_records(stream: Stream, max_bytes: int) -> Iterator[Record | Bad]:
    """Read every record of an archive, whatever is between them."""
    while True:
        stream.skip_line_ends()
        if not stream.fill(1):
            if damage := stream.take_break():
                yield Bad(damage.reason, damage.n_bytes)
                continue
            return
        head = stream.peek(8 if stream.peek(5).upper() == b"WARC/" else _MAX_HEADER)
        if _WARC_START.match(head):
            header = _read_warc_header(stream)
        elif match := _ARC_START.match(head):
            header = _read_arc_header(stream.take(match.end()))
        else:
            yield Bad("no_record_header", _skip_to_record(stream))
            continue
        if isinstance(header, str):
            yield Bad(header, _skip_to_record(stream))
        else:
            yield _read_block(stream, *header, max_bytes)


def _read_warc_header(stream: Stream) -> tuple[Record, int] | str:
    """Return a record without its block, and the length of that; a string says what is wrong with the header."""
    end = stream.find(b"\r\n\r\n", _MAX_HEADER)
    sooner = stream.find(b"\n\n", end if end > 0 else _MAX_HEADER)
    end = sooner if sooner > 0 else end
    if end <= 0:
        stream.skip(5)
        return "bad_header"
    block = stream.take(end)
    if b"\0" in block:  # a zeroed block has melted two records into one
        return "bad_header"
    headers: dict[str, str] = {}
    name = ""
    # Not `splitlines`, to which U+0085 and U+2028 end a line too: addresses hold them.
    for line in re.split(r"\r?\n", block.decode("utf-8", errors="replace"))[1:]:
        if line.startswith((" ", "\t")) and name:
            headers[name] = f"{headers[name]} {line.strip()}".strip()
        elif ":" in line:
            name, _, value = line.partition(":")
            name = name.strip().lower()
            headers.setdefault(name, value.strip())
    length = headers.get("content-length", "")
    if not length.isascii() or not length.isdigit() or len(length) > 15:
        return "bad_content_length"
    if not headers.get("warc-type"):
        stream.skip(int(length))
        return "no_record_type"
    record = Record(
        kind=headers["warc-type"].lower(),
        url=headers.get("warc-target-uri", "").strip("<>"),
        date=headers.get("warc-date", ""),
        content_type=headers.get("content-type", "").lower(),
        headers=headers,
    )
    return record, int(length)


def _read_arc_header(line: bytes) -> tuple[Record, int]:
    """Read `URL IP DATE TYPE [more] LENGTH`. Addresses with spaces exist, so it is read from the right."""
    text = line.decode("utf-8", errors="replace").strip()
    left, length = text.rsplit(" ", 1)
    date = max(re.finditer(r" (\d{14}|\d{12}|\d{8}) ", left), key=lambda match: match.start())
    url = left[: date.start()].rsplit(" ", 1)[0]
    digits = date[1].ljust(14, "0")
    day, clock = digits[:8], digits[8:]
    record = Record(
        kind="filedesc" if url.startswith("filedesc:") else "response",
        url=url,
        date=f"{day[:4]}-{day[4:6]}-{day[6:]}T{clock[:2]}:{clock[2:4]}:{clock[4:]}Z",
        content_type="application/http; msgtype=response" if url.startswith("http") else "",
        headers={},
    )
    return record, int(length)


def _read_block(stream: Stream, record: Record, length: int, max_bytes: int) -> Record | Bad:
    if length > max_bytes:
        skipped = stream.skip(length)
        reason = "over_limit" if skipped == length else "truncated_record"
        return Bad(reason, skipped, record.url)
    block = stream.take(length)
    record = replace(record, block=block)
    complete = len(block) == length
    if complete:
        ends_well = stream.peek(4).startswith((b"\r\n\r\n", b"\n\n"))
        stream.skip_line_ends()
        following = stream.peek(5)
        if not following:
            damage = stream.at_break
            if damage is None or stream.is_verified or _block_digest_fits(record):
                return record
            stream.take_break()
            return Bad(damage.reason, damage.n_bytes, record.url)
        is_record = following.upper() == b"WARC/" or _ARC_START.match(stream.peek(_MAX_HEADER))
        if is_record or ends_well or _block_digest_fits(record):
            return record
    # The length is wrong, or the file ends too early: look for the next record inside the block as well.
    found = _next_record(block)
    if found is not None:
        stream.push_back(block[found:] + (b"\r\n" if complete else b""))
        return Bad("bad_length", found, record.url)
    if complete:
        return Bad("bad_length", len(block) + _skip_to_record(stream), record.url)
    if damage := stream.take_break():
        return Bad(damage.reason, damage.n_bytes, record.url)
    return Bad("truncated_record", len(block), record.url)


def _next_record(data: bytes) -> int | None:
    """Return where in `data` the next record begins."""
    found = [match.end() for pattern in (_NEXT_WARC, _NEXT_ARC) if (match := pattern.search(data))]
    return min(found) if found else None


def _skip_to_record(stream: Stream) -> int:
    """Pass everything up to the next record, break or end; returns the number of bytes."""
    skipped = 0
    while stream.fill(1):
        window = stream.peek(1 << 20)
        before = b"" if skipped else b"\n"  # a record may begin right here
        found = _next_record(before + window)
        if found is not None:
            return skipped + stream.skip(found - len(before))
        # Keep the tail: a header may begin in it and end in the next window.
        step = len(window) - 4096 if len(window) == 1 << 20 else len(window)
        skipped += stream.skip(step)
    return skipped


def _block_digest_fits(record: Record) -> bool:
    return digest_fits(record.headers.get("warc-block-digest", ""), record.block) is True


def digest_fits(declared: str, data: bytes) -> bool | None:
    """Compare data with a digest such as `sha1:BASE32`; None if there is none or its kind is not known."""
    name, _, value = declared.partition(":")
    name = name.strip().lower().replace("-", "")
    if name not in ("md5", "sha1", "sha256", "sha512") or not value:
        return None
    found = hashlib.new(name, data, usedforsecurity=False)
    value, base32 = value.strip(), base64.b32encode(found.digest()).decode()
    return value.lower() == found.hexdigest() or value.upper().rstrip("=") == base32.rstrip("=")
