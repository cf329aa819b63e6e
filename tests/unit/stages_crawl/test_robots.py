from __future__ import annotations

import dataclasses
import gzip
from datetime import UTC, datetime

import pytest
from urllib3 import HTTPHeaderDict

from llmpipe.stages.crawl.fetch import BodySink, FetchError, Response
from llmpipe.stages.crawl.outcomes import (
    ROBOTS_DISALLOWED,
    ROBOTS_UNAVAILABLE,
    TIMEOUT,
    UNREACHABLE,
)
from llmpipe.stages.crawl.robots import Rules, load_rules

HOST = "http://a.example"
RULES = b"User-agent: *\nDisallow: /private\nAllow: /private/open\nCrawl-delay: 2.5\n"


def answer(status: int, content: bytes = b"", **headers: str) -> Response:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    date = datetime.now(UTC)
    return Response("", status, HTTPHeaderDict(named), b"", b"", content, content, "", date)


class FakeFetcher:
    def __init__(self, answers: dict[str, Response | FetchError]) -> None:
        self.answers = answers
        self.asked: list[str] = []

    def get(self, url: str, content_types: None, sink: BodySink) -> Response:
        self.asked.append(url)
        given = self.answers[url]
        if isinstance(given, FetchError):
            raise given
        sink.file.write(given.content[: sink.max_bytes])
        is_cut = len(given.content) > sink.max_bytes
        given = dataclasses.replace(given, is_cut=is_cut)
        return given


def load(answers: dict[str, Response | FetchError], user_agent: str = "tester/1 (+x)") -> Rules:
    return load_rules(HOST, FakeFetcher(answers), user_agent)  # type: ignore[arg-type]


def refusal_of(rules: Rules, path: str) -> str | None:
    refusal = rules.refusal(HOST + path)
    return refusal.outcome if refusal else None


def test_rules_are_followed() -> None:
    rules = load({f"{HOST}/robots.txt": answer(200, RULES)})
    assert refusal_of(rules, "/private/x") == ROBOTS_DISALLOWED
    assert refusal_of(rules, "/private/open/x") is None  # the longer rule wins
    assert refusal_of(rules, "/") is None
    assert rules.robots.crawl_delay_s == 2.5


def test_rules_are_looked_up_under_the_first_word_of_the_agent() -> None:
    text = b"User-agent: *\nDisallow: /\n\nUser-agent: Tester\nDisallow: /no\n"
    rules = load({f"{HOST}/robots.txt": answer(200, text)}, "tester/1.0 (+http://x.example)")
    assert refusal_of(rules, "/") is None
    assert refusal_of(rules, "/no") == ROBOTS_DISALLOWED


def test_compressed_rules_are_read() -> None:
    response = answer(200, gzip.compress(RULES), content_encoding="gzip")
    assert refusal_of(load({f"{HOST}/robots.txt": response}), "/private/x") == ROBOTS_DISALLOWED


@pytest.mark.parametrize("status", [400, 401, 403, 404, 410])
def test_missing_rules_allow_everything(status: int) -> None:
    assert refusal_of(load({f"{HOST}/robots.txt": answer(status, RULES)}), "/private/x") is None


@pytest.mark.parametrize(
    ("given", "outcome"),
    [
        (answer(500), ROBOTS_UNAVAILABLE),
        (answer(503), ROBOTS_UNAVAILABLE),
        (answer(429), ROBOTS_UNAVAILABLE),
        (FetchError(TIMEOUT, "late"), ROBOTS_UNAVAILABLE),
        (FetchError(UNREACHABLE, "refused"), UNREACHABLE),
    ],
)
def test_rules_that_cannot_be_had_forbid_everything(
    given: Response | FetchError, outcome: str
) -> None:
    assert refusal_of(load({f"{HOST}/robots.txt": given}), "/") == outcome


def test_redirects_to_the_rules_are_followed() -> None:
    rules = load(
        {
            f"{HOST}/robots.txt": answer(301, location="https://www.a.example/robots.txt"),
            "https://www.a.example/robots.txt": answer(302, location="/r"),
            "https://www.a.example/r": answer(200, RULES),
        }
    )
    assert refusal_of(rules, "/private/x") == ROBOTS_DISALLOWED


def test_rules_that_redirect_forever_count_as_missing() -> None:
    assert (
        refusal_of(load({f"{HOST}/robots.txt": answer(301, location="/robots.txt")}), "/") is None
    )


def test_a_page_in_place_of_rules_allows_everything() -> None:
    html = b"<!DOCTYPE html><html><body>not found: disallow: /</body></html>"
    assert refusal_of(load({f"{HOST}/robots.txt": answer(200, html)}), "/") is None
