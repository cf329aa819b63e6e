from __future__ import annotations

import time

import pytest

from llmpipe.stages.crawl.links import extract_links

PAGE = "http://example.com/a/index.html"


def test_links_come_from_anchors_in_order_and_once() -> None:
    html = b"""<a href="b.html">b</a> <a href="/c">c</a> <a href="b.html#part">again</a> <a name=x>no</a>
      <link href="style.css"> <img src="i.png"> <a href="mailto:x@example.com">m</a>
      <a href="https://other.example/">o</a>"""
    assert list(extract_links(html, None, PAGE).anchors) == [
        "http://example.com/a/b.html",
        "http://example.com/c",
        "https://other.example/",
    ]


def test_links_follow_the_base_a_page_states() -> None:
    html = b'<base href="/docs/"><a href="x">x</a>'
    assert list(extract_links(html, None, PAGE).anchors) == ["http://example.com/docs/x"]


def test_links_are_read_in_the_charset_of_the_header() -> None:
    html = '<a href="/ж">x</a>'.encode("cp1251")
    assert list(extract_links(html, "windows-1251", PAGE).anchors) == ["http://example.com/%D0%B6"]


def test_a_page_of_many_links_takes_time_in_proportion() -> None:
    html = "".join(f"<p><a href=/{i}>{i}</a> text</p>" for i in range(10_000)).encode()
    started = time.perf_counter()
    assert len(extract_links(html, None, PAGE).anchors) == 10_000
    # About one second; where each link costs a walk through the page, minutes.
    assert time.perf_counter() - started < 10


@pytest.mark.parametrize("html", [b"", b"   ", b"\x00\xff\xfe", b"<!-- only a comment -->"])
def test_pages_without_content_have_no_links(html: bytes) -> None:
    assert list(extract_links(html, None, PAGE).anchors) == []


def test_unknown_charset_is_no_obstacle() -> None:
    assert list(extract_links(b'<a href="/c">', "no-such", PAGE).anchors) == [
        "http://example.com/c"
    ]


@pytest.mark.parametrize(
    ("head", "expected"),
    [
        ('<link rel="canonical" href="/b">', "http://example.com/b"),
        ('<link rel="Canonical" href="c?x=1#top">', "http://example.com/a/c?x=1"),
        ('<link rel="canonical" href="">', None),
        ('<link rel="next" href="/b">', None),
    ],
)
def test_a_page_may_name_its_own_address(head: str, expected: str | None) -> None:
    html = f"<html><head>{head}</head><body>x</body></html>".encode()
    assert extract_links(html, None, PAGE).canonical == expected
