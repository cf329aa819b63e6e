from __future__ import annotations

import pytest

from llmpipe.stages.crawl.frontier import Frontier, Visit
from llmpipe.stages.crawl.outcomes import (
    FETCHED,
    OUT_OF_SCOPE,
    PAGE_LIMIT,
    REDIRECT,
    REDIRECT_LOOP,
)
from llmpipe.stages.crawl.urls import Scope


def u(path: str) -> str:
    return f"http://a.example/{path}"


def start(*seeds: str, max_depth: int = 2) -> Frontier:
    urls = [u(seed) for seed in seeds]
    return Frontier(urls, Scope("host", urls), max_depth)


def finish(frontier: Frontier, *links: str, outcome: str = FETCHED, to: str | None = None) -> str:
    """Finish the next address and return its path."""
    target = frontier.next()
    assert target is not None
    goal = u(to) if to else None
    visit = Visit(target.url, target.depth, target.found_on, outcome, n_bytes=10, redirects_to=goal)
    frontier.finish(visit, [link if "://" in link else u(link) for link in links])
    return target.url.removeprefix("http://a.example/")


def test_order_is_breadth_first_and_in_the_order_of_links() -> None:
    frontier = start("s1", "s2", "s1")
    links = {"s1": ["a", "b"], "s2": ["b", "c", "s1"], "a": ["d"]}
    order = []
    while (target := frontier.next()) is not None:
        path = target.url.removeprefix("http://a.example/")
        order.append((path, target.depth))
        finish(frontier, *links.get(path, []))
    assert order == [("s1", 0), ("s2", 0), ("a", 1), ("b", 1), ("c", 1), ("d", 2)]
    assert (frontier.n_pages, frontier.n_bytes) == (6, 60)


def test_links_of_the_deepest_pages_are_not_wanted() -> None:
    frontier = start("s", max_depth=1)
    assert frontier.wants_links(frontier.next())  # type: ignore[arg-type]
    finish(frontier, "a")
    assert not frontier.wants_links(frontier.next())  # type: ignore[arg-type]


def test_target_of_a_redirect_comes_next_at_the_same_depth() -> None:
    frontier = start("s1", "s2")
    finish(frontier, outcome=REDIRECT, to="moved")
    target = frontier.next()
    assert target is not None
    assert (target.url, target.depth, target.found_on) == (u("moved"), 0, u("s1"))
    assert target.chain == (u("s1"),)
    finish(frontier, outcome=REDIRECT, to="s2")  # waits already: it is not taken in twice
    assert finish(frontier) == "s2"
    assert frontier.next() is None


def test_target_of_a_loop_is_not_taken_in() -> None:
    frontier = start("s")
    finish(frontier, outcome=REDIRECT_LOOP, to="never")
    assert frontier.next() is None


def test_addresses_outside_are_counted_once_and_not_visited() -> None:
    frontier = start("s")
    finish(frontier, "http://b.example/", "x", "http://b.example/")
    finish(frontier, "http://b.example/")
    assert [(v.url, v.outcome, v.found_on) for v in frontier.visits if v.outcome != FETCHED] == [
        ("http://b.example/", OUT_OF_SCOPE, u("s"))
    ]


def test_what_still_waits_is_counted_when_the_crawl_is_cut_short() -> None:
    frontier = start("s")
    finish(frontier, "a", "b")
    frontier.abandon(PAGE_LIMIT)
    assert [(v.url, v.depth, v.outcome) for v in frontier.visits[1:]] == [
        (u("a"), 1, PAGE_LIMIT),
        (u("b"), 1, PAGE_LIMIT),
    ]
    assert frontier.next() is None


def test_visits_out_of_order_are_a_bug() -> None:
    frontier = start("s1", "s2")
    with pytest.raises(AssertionError):
        frontier.finish(Visit(u("s2"), 0, None, FETCHED), [])
