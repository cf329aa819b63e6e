"""Reading: every good record of a damaged archive, every bad one counted; bodies and charsets."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterable
from pathlib import Path

import pytest

from llmpipe.core.errors import InputError
from llmpipe.core.records.compression import open_pieces
from llmpipe.core.stage import SourceFile
from llmpipe.stages.data.config import ReadConfig
from llmpipe.stages.data.document import Document, Drop
from llmpipe.stages.data.sources.charset import decode_page
from llmpipe.stages.data.sources.http import (
    BadBody,
    StoredResponse,
    decode_body,
    join_chunks,
    parse_response,
)
from llmpipe.stages.data.sources.inputs import Payload, expand_inputs, kind_of, plan_units
from llmpipe.stages.data.sources.items import Item, Other, Raw, read_items
from llmpipe.stages.data.sources.records import (
    Bad,
    Record,
    digest_fits,
    read_records,
    starts_record,
)
from llmpipe.stages.data.sources.stream import Stream


def block(i: int) -> bytes:
    body = (
        f"<html><body><p>page {i}: {'lorem ' * (i % 7 + 20)}{i * 7919}</p></body></html>".encode()
    )
    return b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n\r\n" + body


def record(
    i: int, content: bytes | None = None, length: int | None = None, extra: str = ""
) -> bytes:
    content = block(i) if content is None else content
    head = (
        f"WARC/1.0\r\nWARC-Type: response\r\nWARC-Target-URI: http://example.org/{i}\r\n"
        f"WARC-Date: 2024-03-0{i % 9 + 1}T00:00:00Z\r\n{extra}"
        f"Content-Type: application/http; msgtype=response\r\n"
        f"Content-Length: {len(content) if length is None else length}\r\n\r\n"
    )
    return head.encode() + content + b"\r\n\r\n"


def write(path: Path, members: Iterable[bytes]) -> list[bytes]:
    """Write one gzip member a record; returns the members."""
    compressed = [gzip.compress(member, mtime=0) for member in members]
    path.write_bytes(b"".join(compressed))
    return compressed


def read(path: Path, max_bytes: int = 1_000_000) -> tuple[list[str], list[Bad]]:
    """Return the last part of the addresses of good records, and the bad ones."""
    good, bad = [], []
    with path.open("rb") as file:
        for found in read_records(Stream(open_pieces(file, starts_record)), max_bytes):
            if isinstance(found, Record):
                good.append(found.url.rsplit("/", 1)[-1])
            else:
                bad.append(found)
    return good, bad


def without(n: int, *lost: int) -> list[str]:
    return [str(i) for i in range(n) if i not in lost]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "test.warc.gz"


def test_intact_archive(path: Path) -> None:
    write(path, map(record, range(20)))
    assert read(path) == (without(20), [])


def test_damaged_member_costs_one_record(path: Path) -> None:
    members = write(path, map(record, range(20)))
    start = sum(map(len, members[:7]))
    data = bytearray(path.read_bytes())
    for k in range(start + 40, start + 60):
        data[k] ^= 0xFF
    path.write_bytes(data)
    good, bad = read(path)
    assert good == without(20, 7)
    assert bad == [Bad("damaged_gzip", len(members[7]), bad[0].url)]


def test_flipped_bit_in_the_checksum_costs_one_record(path: Path) -> None:
    members = write(path, map(record, range(6)))
    data = bytearray(path.read_bytes())
    data[sum(map(len, members[:3])) - 6] ^= 1
    path.write_bytes(data)
    good, bad = read(path)
    assert good == without(6, 2)
    assert [b.reason for b in bad] == ["damaged_gzip"]


def test_overwritten_start_of_a_member(path: Path) -> None:
    members = write(path, map(record, range(6)))
    start = len(members[0])
    data = path.read_bytes()
    path.write_bytes(data[:start] + b"XXXX" + data[start + 4 :])
    good, bad = read(path)
    assert good == without(6, 1)
    assert [(b.reason, b.n_bytes) for b in bad] == [("garbage_between_members", len(members[1]))]


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.99])
def test_truncated_archive_is_noticed(path: Path, share: float) -> None:
    members = write(path, map(record, range(10)))
    size = int(sum(map(len, members)) * share)
    path.write_bytes(path.read_bytes()[:size])
    whole = 0
    while sum(map(len, members[: whole + 1])) <= size:
        whole += 1
    good, bad = read(path)
    assert good == without(whole)
    assert [b.reason for b in bad] == ["truncated_gzip"]
    assert bad[0].n_bytes == size - sum(map(len, members[:whole]))


def test_garbage_and_padding_between_members(path: Path) -> None:
    members = write(path, map(record, range(4)))
    path.write_bytes(members[0] + b"\0" * 100 + members[1] + b"junk" * 5 + members[2] + members[3])
    good, bad = read(path)
    assert good == without(4)
    assert bad == [Bad("garbage_between_members", 20)]


@pytest.mark.parametrize("compress", [True, False])
@pytest.mark.parametrize("change", [-30, -5, 10_000])
def test_wrong_length_costs_one_record(path: Path, change: int, compress: bool) -> None:
    records = [record(i, length=len(block(i)) + change if i == 2 else None) for i in range(6)]
    path.write_bytes(gzip.compress(b"".join(records)) if compress else b"".join(records))
    good, bad = read(path)
    assert good == without(6, 2)
    assert [b.reason for b in bad] == ["bad_length"]


def test_length_that_takes_in_the_line_ends_is_harmless(path: Path) -> None:
    write(path, [record(0), record(1, length=len(block(1)) + 3), record(2)])
    assert read(path) == (without(3), [])


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        (b"WARC-Type: response\r\n", b"", "no_record_type"),
        (b"Content-Length: ", b"Content-Length: -", "bad_content_length"),
        (b"Content-Length: ", b"Content-Length: 9x", "bad_content_length"),
        (b"Content-Length: ", b"Content-Length: 99999999999999999999", "bad_content_length"),
        (b"WARC/1.0", b"WRAC/1.0", "no_record_header"),
    ],
)
def test_broken_header_costs_one_record(path: Path, old: bytes, new: bytes, reason: str) -> None:
    records = [record(i) for i in range(6)]
    records[3] = records[3].replace(old, new)
    write(path, records)
    good, bad = read(path)
    assert good == without(6, 3)
    assert [b.reason for b in bad] == [reason]


def test_zeroed_block_is_counted(path: Path) -> None:
    plain = bytearray(b"".join(map(record, range(8))))
    start = len(b"".join(map(record, range(3)))) + 30
    plain[start : start + 400] = bytes(400)
    path.write_bytes(plain)
    good, bad = read(path)
    assert good == without(8, 3) or good == without(8, 3, 4)
    assert bad


def test_record_over_the_limit_is_passed_over(path: Path) -> None:
    records = [record(0), record(1, b"x" * 200_000), record(2)]
    write(path, records)
    good, bad = read(path, max_bytes=100_000)
    assert good == without(3, 1)
    assert [(b.reason, b.n_bytes) for b in bad] == [("over_limit", 200_000)]


def test_many_records_in_one_member(path: Path) -> None:
    path.write_bytes(gzip.compress(b"".join(map(record, range(300)))))
    assert read(path) == (without(300), [])


@pytest.mark.parametrize("ending", ["zst", "lz4"])
def test_other_compressions(tmp_path: Path, ending: str) -> None:
    import fastwarc.stream_io
    import zstandard

    path = tmp_path / f"test.warc.{ending}"
    if ending == "zst":
        path.write_bytes(b"".join(zstandard.compress(record(i)) for i in range(5)))
    else:
        with path.open("wb") as file:
            writer = fastwarc.stream_io.Lz4Writer(file)
            writer.write(b"".join(map(record, range(5))))
            writer.close()
    assert read(path) == (without(5), [])
    data = path.read_bytes()
    path.write_bytes(data[: len(data) * 2 // 3])
    assert read(path)[1]


def test_arc(tmp_path: Path) -> None:
    path = tmp_path / "test.arc"
    version = b"1 0 Test\nURL IP-address Archive-date Content-type Archive-length\n"
    entries = [
        b"filedesc://test.arc 0.0.0.0 20080430204825 text/plain %d\n%s" % (len(version), version)
    ]
    for i in range(3):
        line = b"http://example.org/a b/%d 127.0.0.1 2008043020482%d text/html %d\n" % (
            i,
            i,
            len(block(i)),
        )
        entries.append(line + block(i))
    path.write_bytes(b"\n".join(entries) + b"\n")
    with path.open("rb") as file:
        found = list(read_records(Stream(open_pieces(file, starts_record)), 10_000))
    assert [f.kind for f in found if isinstance(f, Record)] == [
        "filedesc",
        "response",
        "response",
        "response",
    ]
    last = found[-1]
    assert isinstance(last, Record)
    assert (last.url, last.date, last.block) == (
        "http://example.org/a b/2",
        "2008-04-30T20:48:22Z",
        block(2),
    )


def test_empty_file(path: Path) -> None:
    path.write_bytes(b"")
    assert read(path) == ([], [])


# ---------------------------------------------------------------------------------------------------------------------
# Items


def items(path: Path, read_config: ReadConfig | None = None) -> list[Item]:
    kind = kind_of(path.name)
    return list(read_items(Payload(kind, (str(path),)), read_config or ReadConfig(), path.parent))


def load(item: Item) -> Document | Drop | str:
    assert isinstance(item, Raw)
    try:
        return item.load()
    except BadBody as error:
        return str(error)


def response(headers: str, body: bytes, status: int = 200) -> bytes:
    return f"HTTP/1.1 {status} X\r\n{headers}\r\n".encode() + body


HTML = "Content-Type: text/html\r\n"


def test_what_is_a_document(path: Path) -> None:
    write(
        path,
        [
            record(0),
            record(1, response("Content-Type: image/png\r\n", b"..")),
            record(2, response("", b"<!DOCTYPE html><p>no type")),
            record(3).replace(b"WARC-Type: response", b"WARC-Type: request"),
            record(4, b"no http"),
            record(5, response(HTML, b"<p>gone", status=404)),
            record(6, response(HTML, b"  ")),
        ],
    )
    found = items(path)
    assert [f.kind for f in found if isinstance(f, Other)] == [
        "response, image/png",
        "request",
        "response, not HTTP",
    ]
    loaded = [load(f) for f in found if isinstance(f, Raw)]
    assert [x.url for x in loaded if isinstance(x, Document)] == [
        "http://example.org/0",
        "http://example.org/2",
    ]
    assert [x for x in loaded if isinstance(x, Drop)] == [
        Drop("http_status", 404, "200"),
        Drop("empty_body"),
    ]


@pytest.mark.parametrize(
    "header",
    [
        'text/html; charset="UTF-8"', "TEXT/HTML", "text/html, charset=utf-8", "text/html charset=utf-8",
        "text/html,text/html", "application/xhtml+xml;profile=x",
    ],
)  # fmt: skip
@pytest.mark.parametrize("place", ["payload type", "response"])
def test_media_types_are_read_as_browsers_read_them(path: Path, header: str, place: str) -> None:
    said = header if place == "response" else "application/octet-stream"
    extra = f"WARC-Identified-Payload-Type: {header}\r\n" if place == "payload type" else ""
    write(
        path,
        [record(0, response(f"Content-Type: {said}\r\n", b"<p>page 0 of a site</p>"), extra=extra)],
    )
    (item,) = items(path)
    found = load(item)
    assert isinstance(found, Document) and "page 0" in (found.html or "")


def test_a_line_separator_of_unicode_does_not_end_a_header(path: Path) -> None:
    address = "http://example.org/a\u2028b\u0085c"
    head = f"WARC/1.0\r\nWARC-Type: response\r\nWARC-Target-URI: {address}\r\nContent-Length: 0\r\n\r\n"
    path.write_bytes(gzip.compress(head.encode() + b"\r\n\r\n"))
    with path.open("rb") as file:
        (found,) = read_records(Stream(open_pieces(file, starts_record)), 1000)
    assert isinstance(found, Record) and found.url == address
    response = parse_response(
        "HTTP/1.1 200 OK\r\nX-Note: a\x85Content-Type: b\r\n\r\n".encode("latin-1")
    )
    assert response is not None and "content-type" not in response.headers


def test_status_is_a_setting(path: Path) -> None:
    write(path, [record(0, response(HTML, b"<p>gone", status=404))])
    assert isinstance(load(items(path, ReadConfig(http_status=()))[0]), Document)


@pytest.mark.parametrize(
    ("digest", "expected"),
    [
        ("sha1:right", "ok"),
        ("sha1:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA", "digest_mismatch"),
        ("crc32:1234", "ok"),  # not known, so not checked
    ],
)
def test_payload_digest(path: Path, digest: str, expected: str) -> None:
    import base64
    import hashlib

    body = b"<html><p>text</p></html>"
    right = base64.b32encode(hashlib.sha1(body).digest()).decode()
    extra = f"WARC-Payload-Digest: {digest.replace('right', right)}\r\n"
    write(path, [record(0, response(HTML, body), extra=extra)])
    loaded = load(items(path)[0])
    assert loaded == expected or (expected == "ok" and isinstance(loaded, Document))
    assert isinstance(load(items(path, ReadConfig(check_digests=False))[0]), Document)


def test_digest_forms() -> None:
    assert digest_fits("md5:900150983cd24fb0d6963f7d28e17f72", b"abc") is True  # RFC 1321
    assert (
        digest_fits("SHA-1:VGMT4NSHA2AWVOR6EVYXQUGCNSONBWE5", b"abc") is True
    )  # FIPS 180's example in base 32
    assert digest_fits("sha1:x", b"abc") is False
    assert digest_fits("", b"abc") is None


def test_wet(tmp_path: Path) -> None:
    path = tmp_path / "test.wet"
    path.write_bytes(
        record(0, "Überschrift\n\nText".encode())
        .replace(b"response\r\nWARC-Target", b"conversion\r\nWARC-Target")
        .replace(b"application/http; msgtype=response", b"text/plain")
    )
    loaded = load(items(path)[0])
    assert isinstance(loaded, Document)
    assert loaded.text == "Überschrift\n\nText"


@pytest.mark.parametrize("ending", ["", ".gz", ".zst"])
def test_jsonl(tmp_path: Path, ending: str) -> None:
    import zstandard

    lines = [{"text": "eins", "url": "http://a/"}, {"html": "<p>zwei"}, {"other": 1}]
    data = "\n".join(map(json.dumps, lines)).encode() + b"\n{broken\n\n[1]\n" + b'{"text": "end"}'
    pack = {"": bytes, ".gz": gzip.compress, ".zst": zstandard.compress}[ending]
    path = tmp_path / f"test.jsonl{ending}"
    path.write_bytes(pack(data))
    first, second, *bad, last = [load(item) for item in items(path)]
    assert isinstance(first, Document)
    assert isinstance(second, Document)
    assert isinstance(last, Document)
    assert (first.text, first.url, second.html, last.text) == (
        "eins",
        "http://a/",
        "<p>zwei",
        "end",
    )
    assert bad == ["no_text_field", "bad_json", "bad_json"]


def test_truncated_jsonl_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "test.jsonl.gz"
    data = gzip.compress(
        "\n".join(json.dumps({"text": f"{i * 7919}"}) for i in range(3000)).encode()
    )
    path.write_bytes(data[: len(data) // 2])
    found = items(path)
    assert sum(isinstance(f, Raw) for f in found) > 500
    assert [f.reason for f in found if isinstance(f, Bad)] == ["cut_line", "truncated_gzip"]


def test_parquet(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = tmp_path / "test.parquet"
    table = pa.table(
        {"text": [f"text {i}" for i in range(40)], "url": [f"http://a/{i}" for i in range(40)]}
    )
    pq.write_table(table, path, row_group_size=10, write_page_checksum=True, compression="none")
    loaded = [load(item) for item in items(path)]
    assert [x.text for x in loaded if isinstance(x, Document)] == [f"text {i}" for i in range(40)]
    data = bytearray(path.read_bytes())
    data[data.index(b"text 25")] ^= 1
    path.write_bytes(data)
    found = items(path)
    assert sum(isinstance(f, Raw) for f in found) == 30
    assert {f.reason for f in found if isinstance(f, Bad)} == {"damaged_row_group"}
    assert len(found) == 40
    path.write_bytes(data[:100])
    assert [f.reason for f in items(path) if isinstance(f, Bad)] == ["damaged_parquet"]


def test_parquet_texts_in_bytes_and_bytes_that_are_no_text(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = tmp_path / "test.parquet"
    texts = pa.array([b"one", b"caf\xe9", "drei\u00df".encode()])
    pq.write_table(pa.table({"text": texts}), path)
    assert [x.text for item in items(path) if isinstance(x := load(item), Document)] == [
        "one",
        "caf\u00e9",  # of another encoding, which is told as for pages
        "drei\u00df",
    ]
    pq.write_table(pa.table({"text": texts.view(pa.string())}), path)
    found = items(path)
    assert [f.reason for f in found if isinstance(f, Bad)] == ["not_utf8"]
    assert sum(isinstance(f, Raw) for f in found) == 2


def test_parquet_without_a_text_names_its_columns(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = tmp_path / "test.parquet"
    pq.write_table(pa.table({"page": [{"text": "one"}], "n": [1]}), path)
    with pytest.raises(InputError, match="no column `text` or `html`, there are page, n"):
        items(path)


def test_jsonl_with_a_byte_order_mark_and_long_windows(tmp_path: Path) -> None:
    import zstandard

    parameters = zstandard.ZstdCompressionParameters(window_log=31)
    packer = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    path = tmp_path / "test.jsonl.zst"
    path.write_bytes(packer.compress(b'\xef\xbb\xbf{"text": "one"}\n') + packer.flush())
    assert [x.text for item in items(path) if isinstance(x := load(item), Document)] == ["one"]


def test_html_file_names_its_own_address(tmp_path: Path) -> None:
    path = tmp_path / "a.html"
    path.write_text('<html><head><link rel="canonical" href="https://example.org/a"></head><p>x')
    loaded = load(items(path)[0])
    assert isinstance(loaded, Document)
    assert loaded.url == "https://example.org/a"


# ---------------------------------------------------------------------------------------------------------------------
# HTTP bodies


def encoded(encoding: str, body: bytes) -> StoredResponse:
    return StoredResponse(200, {"content-encoding": encoding}, body)


def brotli(data: bytes) -> bytes:
    import io

    import fastwarc.stream_io

    buffer = io.BytesIO()
    writer = fastwarc.stream_io.BrotliWriter(buffer)
    writer.write(data)
    writer.close()
    return buffer.getvalue()


TEXT = b"<p>hello</p>" * 50


@pytest.mark.parametrize(
    ("encoding", "body"),
    [
        ("gzip", gzip.compress(TEXT)),
        ("deflate", zlib.compress(TEXT)),
        ("deflate", zlib.compress(TEXT)[2:-4]),
        ("br", brotli(TEXT)),
        ("gzip", TEXT),  # announced but stored decoded, as Common Crawl does
        ("br", TEXT),
        ("identity", TEXT),
        ("ISO-8859-1", TEXT),  # what is no coding is taken for none, as browsers do
        ("binary", TEXT),
        ("aws-chunked", TEXT),
        ("utf8,gzip", gzip.compress(TEXT)),
    ],
)
def test_content_encodings(encoding: str, body: bytes) -> None:
    assert decode_body(encoded(encoding, body), 10_000) == TEXT


@pytest.mark.parametrize(
    ("encoding", "body", "reason"),
    [
        ("gzip", gzip.compress(bytes(50_000_000)), "over_limit"),
        ("br", brotli(bytes(50_000_000)), "over_limit"),
        ("gzip", b"\x1f\x8b\x08\x00broken----------", "damaged_body"),
        ("compress", b"\x1f\x9d", "unknown_encoding"),
        ("", bytes(20_000), "over_limit"),
    ],
)
def test_bad_bodies(encoding: str, body: bytes, reason: str) -> None:
    with pytest.raises(BadBody, match=f"^{reason}$"):
        decode_body(encoded(encoding, body), 10_000)


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b"5\r\nhello\r\n6; x=y\r\n world\r\n0\r\n\r\n", b"hello world"),
        (b"<p>not chunked", b"<p>not chunked"),
        (b"5\r\nhello\r\nff\r\ncut", b"hellocut"),
        (b"abc\nis text", b"is text"),
        (b"", b""),
    ],
)
def test_chunks(body: bytes, expected: bytes) -> None:
    assert join_chunks(body) == expected


def test_parse_response() -> None:
    found = parse_response(
        b"HTTP/1.1 301 Moved\r\nContent-Type: Text/HTML; charset='utf-8'\nX: 1\n\nbody"
    )
    assert found is not None
    assert (found.status, found.mime, found.charset, found.body) == (
        301,
        "text/html",
        "utf-8",
        b"body",
    )
    assert parse_response(b"<html>") is None


# ---------------------------------------------------------------------------------------------------------------------
# Charsets

MEANT = "Größe – naïve café"


@pytest.mark.parametrize(
    ("data", "http", "expected"),
    [
        (MEANT.encode(), None, MEANT),
        (MEANT.encode(), "iso-8859-1", MEANT),  # a wrong label: valid UTF-8 beyond ASCII is UTF-8
        (MEANT.encode("cp1252"), "iso-8859-1", MEANT),  # browsers read latin-1 as windows-1252
        (
            b"<meta charset=windows-1252>" + MEANT.encode("cp1252"),
            None,
            "<meta charset=windows-1252>" + MEANT,
        ),
        (b"\xef\xbb\xbf" + MEANT.encode(), "latin1", MEANT),
        (MEANT.encode("utf-16"), None, MEANT),
        ("日本語のページ".encode("shift_jis"), "shift_jis", "日本語のページ"),
        ("日本語のページ".encode("iso2022_jp"), "iso-2022-jp", "日本語のページ"),
        (
            "Привет, как дела? Это страница о погоде.".encode("koi8_r"),
            None,
            "Привет, как дела? Это страница о погоде.",
        ),
        (b'<meta charset="utf-16"><p>ascii', None, '<meta charset="utf-16"><p>ascii'),
        (b"a\0b", None, "ab"),
        (MEANT.encode() * 99 + b"\xff", "utf-8", MEANT * 99 + "\ufffd"),
        (b"x", "no-such-charset", "x"),
    ],
)
def test_charsets(data: bytes, http: str | None, expected: str) -> None:
    assert decode_page(data, http) == expected


# ---------------------------------------------------------------------------------------------------------------------
# Inputs


def test_expand_inputs(tmp_path: Path) -> None:
    for name in ("a.warc.gz", "sub/b.html", "sub/c.txt", "d.jsonl.zst", "e.unknown"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    names = [Path(x).name for x in expand_inputs([str(tmp_path), str(tmp_path / "e.*")])]
    assert names == ["a.warc.gz", "d.jsonl.zst", "e.unknown", "b.html"]
    assert expand_inputs(["hf:some/name", "https://a/b.warc.gz"]) == [
        "hf:some/name",
        "https://a/b.warc.gz",
    ]
    with pytest.raises(InputError, match="there is no file or folder"):
        expand_inputs([str(tmp_path / "none.warc")])
    with pytest.raises(InputError, match="no file fits"):
        expand_inputs([str(tmp_path / "*.arc")])
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="holds no input"):
        expand_inputs([str(tmp_path / "empty")])


def test_units_do_not_depend_on_order_or_place() -> None:
    files = [
        SourceFile(f"/x/{name}", 1, f"{i:064x}")
        for i, name in enumerate(["a.warc", "b.html", "c.html"])
    ]
    moved = [
        SourceFile(f"/elsewhere/{Path(f.path).name}", 1, f.fingerprint) for f in reversed(files)
    ]
    assert [u.id for u in plan_units(files)] == [u.id for u in plan_units(moved)]
    assert sorted(len(u.payload.paths) for u in plan_units(files)) == [
        1,
        2,
    ]  # HTML files are packed


def test_equal_files_make_one_unit() -> None:
    files = [SourceFile("/x/a.warc", 1, "0" * 64), SourceFile("/x/b.warc", 1, "0" * 64)]
    assert len(plan_units(files)) == 1
