from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmpipe.stages.crawl.urls import Scope, canonical, origin


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("HTTP://ExAmple.COM/Path", "http://example.com/Path"),
        ("http://example.com", "http://example.com/"),
        ("http://example.com:80/a", "http://example.com/a"),
        ("https://example.com:443/a", "https://example.com/a"),
        ("https://example.com:80/a", "https://example.com:80/a"),
        ("http://example.com/a#part", "http://example.com/a"),
        ("http://example.com?q=1#x", "http://example.com/?q=1"),
        ("http://example.com/a/../b/./c", "http://example.com/b/c"),
        ("http://example.com/a b?c d", "http://example.com/a%20b?c%20d"),
        ("http://example.com/?b=2&a=1", "http://example.com/?b=2&a=1"),
        ("http://bücher.example/ä", "http://xn--bcher-kva.example/%C3%A4"),
        ("  http://example.com/a\n", "http://example.com/a"),
        ("http://[::1]:8080/", "http://[::1]:8080/"),
    ],
)
def test_one_spelling_for_each_address(url: str, expected: str) -> None:
    assert canonical(url) == expected


@pytest.mark.parametrize(
    "url",
    [
        "mailto:someone@example.com",
        "javascript:void(0)",
        "ftp://example.com/",
        "file:///etc/passwd",
        "/relative/without/base",
        "",
        "http://",
        "http://user:secret@example.com/",
        "http://exa mple.com/",
        "http://example.com:99999/",
        "http://example.com/" + "a" * 2048,
    ],
)
def test_what_cannot_be_crawled_has_no_spelling(url: str) -> None:
    assert canonical(url) is None


@pytest.mark.parametrize(
    ("link", "expected"),
    [
        ("c.html", "http://example.com/a/c.html"),
        ("../c", "http://example.com/c"),
        ("/c", "http://example.com/c"),
        ("?page=2", "http://example.com/a/b?page=2"),
        ("#top", "http://example.com/a/b"),
        ("//other.example/c", "http://other.example/c"),
        ("https://other.example", "https://other.example/"),
    ],
)
def test_relative_links_continue_their_page(link: str, expected: str) -> None:
    assert canonical(link, base="http://example.com/a/b") == expected


@given(st.text(max_size=60))
def test_a_canonical_address_is_its_own_spelling(text: str) -> None:
    once = canonical(text, base="http://example.com/a/b")
    assert once is None or canonical(once) == once


def test_origin_is_scheme_host_and_port() -> None:
    assert origin("http://example.com:8080/a?b") == "http://example.com:8080"


def test_host_scope_holds_every_path_of_the_seeds_hosts() -> None:
    scope = Scope("host", ["http://example.com/docs/index.html", "http://127.0.0.1:8000/"])
    assert scope.holds("http://example.com/elsewhere")
    assert scope.holds("https://example.com/")
    assert scope.holds("http://127.0.0.1:8000/a")
    assert not scope.holds("http://127.0.0.1:8001/a")
    assert not scope.holds("http://www.example.com/")


def test_prefix_scope_holds_the_folders_of_the_seeds() -> None:
    scope = Scope("prefix", ["http://example.com/docs/index.html"])
    assert scope.holds("http://example.com/docs/")
    assert scope.holds("http://example.com/docs/a/b?c=/")
    assert not scope.holds("http://example.com/docs2/")
    assert not scope.holds("http://example.com/")
    assert not scope.holds("http://example.com.evil.example/docs/")
