"""Items of a unit: what each record is, cheaply, and how to make a document of it, later and under limits.

Raw    may become a document: `load` decodes it
Bad    cannot be read, with a reason
Other  is no document: a request, an image, a revisit
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from llmpipe.core.http_message import parse_media_type
from llmpipe.core.records.compression import open_pieces
from llmpipe.core.records.lines import Unreadable, parse_object, read_lines
from llmpipe.core.records.parquet import read_parquet
from llmpipe.core.records.rows import read_dataset
from llmpipe.core.remote import local_copy
from llmpipe.stages.data.config import ReadConfig
from llmpipe.stages.data.document import Document, Drop, SplitText
from llmpipe.stages.data.sources.charset import decode_page
from llmpipe.stages.data.sources.http import BadBody, StoredResponse, decode_body, parse_response
from llmpipe.stages.data.sources.inputs import Payload
from llmpipe.stages.data.sources.records import (
    Bad,
    Record,
    digest_fits,
    read_records,
    starts_record,
)
from llmpipe.stages.data.sources.stream import Stream
from llmpipe.stages.data.steps.extraction import clean_text

_HTML_TYPES = ("text/html", "application/xhtml+xml")
_LOOKS_LIKE_HTML = re.compile(rb"\s*(?:<!doctype html|<html|<head|<body)", re.I)
_CANONICAL = re.compile(
    r"<link[^>]{0,200}?rel=[\"']?canonical[\"']?[^>]{0,200}?href=[\"']([^\"'>]{1,2000})", re.I
)


@dataclass(frozen=True)
class Raw:
    """A record that may become a document."""

    url: str
    load: Callable[[], Document | Drop]
    """Raises `BadBody` if it cannot be decoded."""


@dataclass(frozen=True)
class Other:
    """A record that is no document."""

    kind: str


Item = Raw | Bad | Other


def read_items(payload: Payload, read: ReadConfig, folder: Path) -> Iterator[Item]:
    """Read all records of a unit in order.

    A remote file is put into `folder` while it is read.
    """
    if payload.kind == "dataset":
        yield from _items_of(read_dataset(payload.paths[0], streaming=True), _load_row, read)
        return
    texts = (read.text_field, "html")
    columns = (*texts, read.url_field, read.date_field)
    for name in payload.paths:
        with local_copy(name, folder) as path:
            if payload.kind == "archive":
                yield from _archive_items(path, read)
            elif payload.kind == "jsonl":
                lines = read_lines(path, max_bytes=read.max_record_bytes)
                yield from _items_of(lines, _load_json, read)
            elif payload.kind == "parquet":
                hint = "name it with `--set data.read.text_field=NAME`"
                rows = read_parquet(path, columns, texts, label=name, hint=hint)
                yield from _items_of(rows, _load_row, read)
            else:
                yield _html_item(path, read)


# ---------------------------------------------------------------------------------------------------------------------
# WARC, ARC, WET


def _archive_items(path: Path, read: ReadConfig) -> Iterator[Item]:
    with path.open("rb") as file:
        for record in read_records(Stream(open_pieces(file, starts_record)), read.max_record_bytes):
            yield record if isinstance(record, Bad) else _record_item(record, read)


def _record_item(record: Record, read: ReadConfig) -> Item:
    if record.kind == "response":
        response = parse_response(record.block)
        if response is None:
            return Other("response, not HTTP")
        identified = record.headers.get("warc-identified-payload-type", "")
        mime = parse_media_type(identified)[0] or response.mime
        if mime in _HTML_TYPES or (not mime and _LOOKS_LIKE_HTML.match(response.body)):
            return Raw(record.url, partial(_load_response, record, response, read))
        return Other(f"response, {mime or 'no type'}")
    mime, _ = parse_media_type(record.content_type)
    if record.kind == "resource" and mime in _HTML_TYPES:
        load = partial(_load_html, record.url, record.date, record.block, None, read)
        return Raw(record.url, load)
    if record.kind == "conversion" and mime == "text/plain":
        return Raw(record.url, partial(_load_plain_text, record))
    return Other(record.kind)


def _load_response(record: Record, response: StoredResponse, read: ReadConfig) -> Document | Drop:
    if read.check_digests and not _digests_fit(record, response):
        raise BadBody("digest_mismatch")
    if read.http_status and response.status not in read.http_status:
        return Drop("http_status", response.status, " ".join(map(str, read.http_status)))
    body = decode_body(response, read.max_page_bytes)
    return _load_html(record.url, record.date, body, response.charset, read)


def _digests_fit(record: Record, response: StoredResponse) -> bool:
    """True unless a digest is there that can be checked and none fits.

    Crawlers differ in what they call the payload (as sent, or decoded), so any fitting digest is enough; a
    record that its crawler cut short has the digest of what was sent.
    """
    if "warc-truncated" in record.headers:
        return True
    declared = record.headers.get("warc-payload-digest", "")
    verdicts = [
        digest_fits(record.headers.get("warc-block-digest", ""), record.block),
        digest_fits(declared, response.body),
    ]
    if True in verdicts or verdicts == [None, None]:
        return True
    if digest_fits(declared, record.block):
        return True
    try:
        return digest_fits(declared, decode_body(response, 1 << 26)) is True
    except BadBody:
        return False


def _load_html(
    url: str, date: str, body: bytes, charset: str | None, read: ReadConfig
) -> Document | Drop:
    if len(body) > read.max_page_bytes:
        raise BadBody("over_limit")
    if not body.strip():
        return Drop("empty_body")
    return Document(url=url, date=date, html=decode_page(body, charset))


def _load_plain_text(record: Record) -> Document | Drop:
    text = record.block.decode("utf-8", errors="replace")
    return _from_text(text, record.url, record.date)


def _from_text(text: str, url: str, date: str) -> Document | Drop:
    cleaned = clean_text(text)
    if not cleaned:
        return Drop("empty_body")
    return Document(url=url, date=date, content=SplitText(cleaned))


# ---------------------------------------------------------------------------------------------------------------------
# HTML files, JSONL, Parquet, Hugging Face datasets


def _html_item(path: Path, read: ReadConfig) -> Item:
    if path.stat().st_size > read.max_page_bytes:
        return Bad("over_limit", path.stat().st_size)
    return Raw("", partial(_load_html_file, path.read_bytes(), read))


def _load_html_file(body: bytes, read: ReadConfig) -> Document | Drop:
    """A file on disk has no address but the one it may name itself."""
    document = _load_html("", "", body, None, read)
    if isinstance(document, Document) and (match := _CANONICAL.search(document.html or "")):
        document.url = match[1]
    return document


def _load_json(line: bytes, read: ReadConfig) -> Document | Drop:
    try:
        row = parse_object(line)
    except ValueError:
        raise BadBody("bad_json") from None
    return _load_row(row, read)


def _load_row(row: dict[str, Any], read: ReadConfig) -> Document | Drop:
    """Make a document of named fields: the text, or a page under `html`."""
    url, date = (str(row.get(name) or "") for name in (read.url_field, read.date_field))
    text, html = row.get(read.text_field), row.get("html")
    if isinstance(text, bytes):  # Parquet of some writers does not say that it is text
        text = decode_page(text, "utf-8")
    if isinstance(text, str):
        return _from_text(text, url, date)
    if isinstance(html, str):
        return Document(url=url, date=date, html=html) if html.strip() else Drop("empty_body")
    if isinstance(html, bytes):
        return _load_html(url, date, html, None, read)
    raise BadBody("no_text_field")


def _items_of(
    rows: Iterable[tuple[str, Any] | Unreadable],
    load: Callable[[Any, ReadConfig], Document | Drop],
    read: ReadConfig,
) -> Iterator[Item]:
    """Make items of rows with their places."""
    for row in rows:
        if isinstance(row, Unreadable):
            yield Bad(row.reason, row.n_bytes)
        else:
            yield Raw("", partial(load, row[1], read))
