"""What is on disk after each way to die, and that it is taken up at the right place."""

from __future__ import annotations

import gzip
from datetime import UTC, datetime
from pathlib import Path

import pytest
from urllib3 import HTTPHeaderDict
from warcio.archiveiterator import ArchiveIterator

from llmpipe.stages.crawl.fetch import Response
from llmpipe.stages.crawl.frontier import Frontier, Visit
from llmpipe.stages.crawl.journal import Entry, Journal
from llmpipe.stages.crawl.loop import _restore
from llmpipe.stages.crawl.outcomes import FETCHED
from llmpipe.stages.crawl.urls import Scope
from llmpipe.stages.crawl.warc import Position, WarcFolder, end_of_whole_members

URLS = [f"http://a.example/{i}" for i in range(4)]
HEAD = b"HTTP/1.1 200 fine\r\nx-ODD:  spacing \r\n\r\n"


def response(url: str) -> Response:
    body = f"page {url} ".encode() * 20
    request = b"GET / HTTP/1.1\r\n\r\n"
    date = datetime(2026, 1, 2, 3, 4, 5, 678, tzinfo=UTC)
    return Response(url, 200, HTTPHeaderDict(), request, HEAD, body, body, "127.0.0.1", date)


def write(out: Path, urls: list[str], max_bytes: int = 10**9) -> list[Entry]:
    """Store pages as the loop does; return the journal's entries."""
    warc = WarcFolder(out / "warc", Position(0, 0), max_bytes, {"software": "test"})
    journal = Journal(out / "state" / "journal.jsonl")
    entries = []
    for url in urls:
        warc.write(response(url))
        entries.append(Entry(Visit(url, 0, None, FETCHED), (), warc.position, 1.5, "2026-01-02"))
        journal.append(entries[-1])
    warc.close()
    journal.close()
    return entries


def restore(out: Path) -> list[Entry]:
    frontier = Frontier(URLS, Scope("host", URLS), 0)
    return _restore(frontier, out / "state" / "journal.jsonl", out / "warc")


def go_on(out: Path, entries: list[Entry], max_bytes: int = 10**9) -> None:
    """Write what is missing, as a resumed run does."""
    position = entries[-1].position if entries else Position(0, 0)
    warc = WarcFolder(out / "warc", position, max_bytes, {"software": "test"})
    for url in URLS[len(entries) :]:
        warc.write(response(url))
    warc.close()


def responses(out: Path) -> list[str]:
    """Read all WARC files back, checking digests, and return the addresses of the responses."""
    urls = []
    for path in sorted((out / "warc").iterdir()):
        with path.open("rb") as file:
            for record in ArchiveIterator(file, check_digests="raise"):
                record.content_stream().read()
                if record.rec_type == "response":
                    urls.append(record.rec_headers.get_header("WARC-Target-URI"))
    return urls


def test_records_hold_the_exact_bytes(tmp_path: Path) -> None:
    write(tmp_path, URLS[:1])
    text = gzip.decompress((tmp_path / "warc" / "crawl-00000.warc.gz").read_bytes())
    assert text.startswith(b"WARC/1.1\r\nWARC-Type: warcinfo\r\n")
    assert b"\r\n\r\n" + HEAD + response(URLS[0]).body + b"\r\n\r\n" in text
    assert text.count(b"WARC-Date: 2026-01-02T03:04:05.000678Z\r\n") == 2
    record_ids = [x for x in text.split(b"\r\n") if x.startswith(b"WARC-Record-ID")]
    assert b"WARC-Concurrent-To" + record_ids[2].removeprefix(b"WARC-Record-ID") in text


def test_finished_pages_are_restored(tmp_path: Path) -> None:
    entries = write(tmp_path, URLS[:3])
    assert restore(tmp_path) == entries


@pytest.mark.parametrize("cut", [1, 100, 200])
def test_torn_warc_costs_the_last_page_only(tmp_path: Path, cut: int) -> None:
    write(tmp_path, URLS[:3])
    path = tmp_path / "warc" / "crawl-00000.warc.gz"
    path.write_bytes(path.read_bytes()[:-cut])
    entries = restore(tmp_path)
    assert [entry.visit.url for entry in entries] == URLS[:2]
    go_on(tmp_path, entries)
    assert responses(tmp_path) == URLS


def test_pages_the_journal_does_not_know_are_cut_off(tmp_path: Path) -> None:
    write(tmp_path, URLS[:3])
    journal = tmp_path / "state" / "journal.jsonl"
    journal.write_bytes(journal.read_bytes()[:-10])  # the last line is torn
    entries = restore(tmp_path)
    assert [entry.visit.url for entry in entries] == URLS[:2]
    go_on(tmp_path, entries)
    assert responses(tmp_path) == URLS
    assert Journal.read(journal) == entries


def test_journal_damaged_by_a_power_cut_is_used_up_to_there(tmp_path: Path) -> None:
    entries = write(tmp_path, URLS[:3])
    journal = tmp_path / "state" / "journal.jsonl"
    lines = journal.read_bytes().splitlines(keepends=True)
    journal.write_bytes(lines[0] + bytes(len(lines[1]) - 1) + b"\n" + lines[2])
    assert restore(tmp_path) == entries[:1]


def test_lost_warc_files_cost_their_pages(tmp_path: Path) -> None:
    write(tmp_path, URLS[:3])
    (tmp_path / "warc" / "crawl-00000.warc.gz").unlink()
    assert restore(tmp_path) == []
    go_on(tmp_path, [])
    assert responses(tmp_path) == URLS


def test_files_are_split_by_size_and_each_begins_with_a_warcinfo(tmp_path: Path) -> None:
    write(tmp_path, URLS, max_bytes=1200)
    paths = sorted((tmp_path / "warc").iterdir())
    assert [path.name for path in paths] == ["crawl-00000.warc.gz", "crawl-00001.warc.gz"]
    for path in paths:
        assert b"WARC-Filename: " + path.name.encode() in gzip.decompress(path.read_bytes())[:300]
    assert responses(tmp_path) == URLS


def test_torn_second_file_is_repaired_or_removed(tmp_path: Path) -> None:
    whole = write(tmp_path, URLS, max_bytes=1200)
    second = tmp_path / "warc" / "crawl-00001.warc.gz"
    second.write_bytes(second.read_bytes()[:50])
    entries = restore(tmp_path)
    assert entries == [entry for entry in whole if entry.position.i_file == 0]
    go_on(tmp_path, entries, max_bytes=1200)
    assert responses(tmp_path) == URLS


def test_damage_inside_a_member_ends_the_whole_part(tmp_path: Path) -> None:
    path = tmp_path / "x.gz"
    members = [gzip.compress(bytes([i]) * 5000) for i in range(3)]
    broken = bytearray(members[1])
    broken[-6] ^= 1  # its checksum
    path.write_bytes(members[0] + bytes(broken) + members[2])
    assert end_of_whole_members(path) == len(members[0])
    path.write_bytes(b"".join(members))
    assert end_of_whole_members(path) == sum(map(len, members))
    path.write_bytes(b"")
    assert end_of_whole_members(path) == 0
