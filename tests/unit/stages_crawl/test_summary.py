from __future__ import annotations

import json

from llmpipe.stages.crawl.frontier import Visit
from llmpipe.stages.crawl.outcomes import (
    FETCHED,
    REDIRECT,
    UNREACHABLE,
    WRONG_TYPE,
    http_error,
    meaning,
)
from llmpipe.stages.crawl.report import headline
from llmpipe.stages.crawl.summary import count, url_lines, what_was_tried

A = "http://a.example/"
VISITS = [
    Visit(A, 0, None, FETCHED, 200, 100, "text/html"),
    Visit(A + "b", 1, A, FETCHED, 200, 300, "text/html"),
    Visit(A + "c", 1, A, FETCHED, 200, 50, "application/xhtml+xml"),
    Visit(A + "d", 1, A, WRONG_TYPE, content_type="image/png"),
    Visit(A + "e", 1, A, http_error(404), 404, 9, "text/html"),
]


def test_every_address_is_counted_under_one_outcome() -> None:
    stats = count(VISITS, "2026-01-02", 1)
    assert stats == {
        "pages": 3,
        "bytes": 450,
        "urls": 5,
        "outcomes": {"fetched": 3, "http_404": 1, "wrong_type": 1},
        "content_types": {"text/html": 3, "application/xhtml+xml": 1, "image/png": 1},
        "depths": [{"depth": 0, "pages": 1, "bytes": 100}, {"depth": 1, "pages": 2, "bytes": 350}],
        "largest": [
            {"url": A + "b", "bytes": 300},
            {"url": A, "bytes": 100},
            {"url": A + "c", "bytes": 50},
        ],
        "warc_files": 1,
        "crawled_on": "2026-01-02",
    }
    assert sum(stats["outcomes"].values()) == stats["urls"]


def test_headline_names_pages_and_size() -> None:
    assert headline({"pages": 311, "bytes": 12_280_000}) == "311 pages, 12.3 MB"
    assert headline({"pages": 1, "bytes": 900}) == "1 page, 900 B"


def test_list_of_addresses_says_what_became_of_each() -> None:
    rows = [json.loads(line) for line in url_lines(VISITS).splitlines()]
    assert rows[4] == {
        "url": A + "e",
        "depth": 1,
        "outcome": "http_404",
        "status": 404,
        "bytes": 9,
        "content_type": "text/html",
        "from": A,
        "redirects_to": None,
        "detail": "",
    }


def test_error_message_lists_what_was_tried() -> None:
    visits = [
        Visit(A, 0, None, UNREACHABLE, detail="connection refused"),
        Visit(A + "b", 0, None, REDIRECT, redirects_to="http://b.example/"),
        *VISITS[2:],
    ]
    assert what_was_tried(visits, n_shown=2).splitlines() == [
        "    http://a.example/: no connection (connection refused)",
        "    http://a.example/b: led elsewhere to http://b.example/",
        "    and 3 more",
    ]


def test_every_status_has_a_meaning() -> None:
    assert meaning("http_418") == "answered with status 418"
