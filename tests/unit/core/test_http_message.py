from __future__ import annotations

import gzip
import io
import random
import tracemalloc
import zlib

import pytest
import zstandard

from llmpipe.core.http_message import (
    UnknownCodingError,
    decode_body,
    parse_media_type,
    read_up_to,
    undo_codings,
)


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("text/html", ("text/html", None)),
        ("TEXT/HTML;Charset=\"UTF-8\"", ("text/html", "UTF-8")),
        ("text/html, charset=utf-8", ("text/html", "utf-8")),
        ("text/html charset=utf-8", ("text/html", "utf-8")),
        ("text/html; charset: koi8-r", ("text/html", "koi8-r")),
        ("text/html,text/html", ("text/html", None)),
        ("text/html; charset=a, text/html; charset=b", ("text/html", "b")),
        ("text/html; charset=a, text/html", ("text/html", "a")),
        ("text/plain; charset=a, text/html", ("text/html", None)),
        ("text/html;charset=a, */*", ("text/html", "a")),
        ('text/html; x="a, image/png"; charset=utf-8', ("text/html", "utf-8")),
        ('"text/html"', ("text/html", None)),
        ("Content-Type: text/html; charset=utf-8", ("text/html", "utf-8")),
        ("application/xhtml+xml;profile=x", ("application/xhtml+xml", None)),
        ("html", ("", None)),
        ("", ("", None)),
    ],
)  # fmt: skip
def test_media_types_are_read_as_they_were_meant(
    header: str, expected: tuple[str, str | None]
) -> None:
    assert parse_media_type(header) == expected


def _raw_deflate(data: bytes) -> bytes:
    compressor = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return compressor.compress(data) + compressor.flush()


# `brotli` compresses, and is no dependency: this is what it made of the words below.
BROTLI_WORDS = b"some text in the br coding"
BROTLI = bytes.fromhex("8b0c80736f6d65207465787420696e2074686520627220636f64696e6703")

TEXT = bytes(random.Random(1).choices(b"abcdefgh <>", k=100_000))


@pytest.mark.parametrize(
    ("body", "encoding"),
    [
        (TEXT, ""),
        (TEXT, "identity"),
        (gzip.compress(TEXT), "gzip"),
        (gzip.compress(TEXT), " X-GZIP"),
        (gzip.compress(TEXT[:4094]) + gzip.compress(TEXT[4094:]) + b"\0\0", "gzip"),
        (TEXT, "gzip"),  # it was sent uncompressed
        (zlib.compress(TEXT), "deflate"),
        (_raw_deflate(TEXT), "deflate"),
        (zstandard.compress(TEXT), "zstd"),
        (zstandard.compress(TEXT[:9]) + zstandard.compress(TEXT[9:]), "zstd"),
        (gzip.compress(zstandard.compress(TEXT)), "zstd, gzip"),
        *(
            (TEXT, none)
            for none in ("ISO-8859-1", "binary", "aws-chunked", "none", "utf-8", "8bit")
        ),
        (gzip.compress(TEXT), "aws-chunked,gzip"),
        *((b"", coding) for coding in ("gzip", "deflate", "br", "zstd")),
    ],
)
def test_codings_are_undone(body: bytes, encoding: str) -> None:
    assert decode_body(body, encoding, len(TEXT)) == (TEXT if body else b"", True)


def test_brotli_is_undone() -> None:
    assert decode_body(BROTLI, "br", 100) == (BROTLI_WORDS, True)


@pytest.mark.parametrize("coding", ["compress", "x-compress", "dcz", "xz"])
def test_a_coding_that_nothing_undoes_is_named(coding: str) -> None:
    with pytest.raises(UnknownCodingError, match=coding):
        decode_body(b"\x1f\x9d", f"gzip, {coding}", 100)


@pytest.mark.parametrize(
    ("body", "encoding"), [(gzip.compress(TEXT), "gzip"), (zlib.compress(TEXT), "deflate")]
)
def test_what_stands_before_the_damage_is_used(body: bytes, encoding: str) -> None:
    half = len(body) // 2
    for broken in (body[:half], body[:half] + b"\0" * half):
        start, is_whole = decode_body(broken, encoding, 10**7)
        assert not is_whole
        assert len(start) > 40_000
        assert TEXT.startswith(start[:40_000])


@pytest.mark.parametrize("encoding", ["deflate", "br", "zstd"])
def test_what_is_damaged_from_the_start_gives_nothing(encoding: str) -> None:
    assert decode_body(b"\x01nonsense" * 9, encoding, 100) == (b"", False)


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "br", "zstd"])
def test_a_page_that_was_not_compressed_is_taken_as_it_is(encoding: str) -> None:
    page = b"\n<!doctype html><p>" + TEXT
    assert decode_body(page, encoding, 10**6) == (page, True)


@pytest.mark.parametrize("encoding", ["gzip", "zstd", "zstd, gzip"])
def test_a_bomb_is_cut_without_unpacking_it(encoding: str) -> None:
    body = bytes(50_000_000)
    for coding in encoding.split(", "):
        body = gzip.compress(body) if coding == "gzip" else zstandard.compress(body)
    tracemalloc.start()
    content, _ = decode_body(body, encoding, max_bytes=1000)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(content) == 1001
    assert peak < 2_000_000


def test_a_stream_is_read_in_pieces_of_any_size() -> None:
    reader = undo_codings(io.BytesIO(gzip.compress(TEXT)), "gzip")
    pieces = []
    while (piece := read_up_to(reader, 777)[0]) != b"":
        pieces.append(piece)
    assert b"".join(pieces) == TEXT
    assert {len(piece) for piece in pieces[:-1]} == {777}
