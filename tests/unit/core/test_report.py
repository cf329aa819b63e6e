"""Reports: escaping, numbers, ticks, and that the page is well formed and complete in itself."""

from __future__ import annotations

import math
import re
from html.parser import HTMLParser

import pytest

from llmpipe.core.report import (
    Bars,
    Code,
    LinePlot,
    Prose,
    Section,
    Table,
    Transcript,
    format_number,
    round_ticks,
    to_html,
    to_markdown,
)

HOSTILE = "</td></pre><script>alert('x')</script>&amp;\"|`*[link](http://x.example)"
EVERY_BLOCK = [
    Prose(f"prose {HOSTILE}"),
    Table([HOSTILE, "n"], [[HOSTILE, 1]]),
    Code(HOSTILE, HOSTILE),
    LinePlot(HOSTILE, HOSTILE, HOSTILE, {HOSTILE: [(0, 1), (1, 2)]}),
    Bars(HOSTILE, [(HOSTILE, 3)], HOSTILE),
    Transcript([("user", HOSTILE), (HOSTILE, HOSTILE)]),
]
VOID = {"meta", "path", "rect", "br"}


class Page(HTMLParser):
    """Collects tags, attributes and text, and fails on a tag that closes what is not open."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def test_every_block_escapes_what_it_is_given() -> None:
    page = Page(to_html(HOSTILE, [Section(HOSTILE, EVERY_BLOCK)], subtitle="by llmpipe"))
    assert page.open == []
    assert "script" not in {tag for tag, _ in page.tags}
    # page title, h1, h2 (3), table head and cell (2), code and caption (2), title, two labels and
    # legend of the plot (4), title and name of the bars (2), two texts and one role (3)
    assert page.texts.count(HOSTILE) == 3 + 2 + 2 + 4 + 2 + 3


def test_page_refers_to_nothing_outside_itself() -> None:
    page = Page(to_html("t", [Section("a", EVERY_BLOCK), Section("b", []), Section("c", [])]))
    for _, attrs in page.tags:
        assert not {"src", "data", "xlink:href"} & set(attrs)
        assert (attrs.get("href") or "#").startswith("#")
    targets = {attrs["href"] for tag, attrs in page.tags if tag == "a"}
    assert targets == {f"#{attrs['id']}" for tag, attrs in page.tags if tag == "section"}


def test_columns_of_numbers_are_set_flush_right() -> None:
    table = Table(["name", "n", "size", "date"], [["a", 1234, "12.3 MB", "2025-01-02"]])
    page = Page(to_html("t", [Section("s", [table])]))
    classes = [attrs.get("class") for tag, attrs in page.tags if tag == "td"]
    assert classes == [None, "n", "n", None]
    assert "1,234" in page.texts


def test_curve_reaches_from_corner_to_corner() -> None:
    """Points (0, 0) and (10, 4) on axes 0..10 and 0..4: left bottom (0, 100) to right top (100, 0)."""
    page = Page(to_html("t", [Section("s", [LinePlot("p", "x", "y", {"a": [(0, 0), (10, 4)]})])]))
    curves = [attrs["d"] for tag, attrs in page.tags if tag == "path" and attrs["class"] == "c0"]
    assert "M0.00 100.00L100.00 0.00" in curves


def test_numbers_that_are_not_finite_are_left_out_of_a_curve() -> None:
    points = [(0, 1.0), (1, math.nan), (2, math.inf), (3, 2.0)]
    html = to_html("t", [Section("s", [LinePlot("p", "x", "y", {"a": points})])])
    assert "nan" not in html and "inf" not in html
    assert "M0.00 100.00L100.00 0.00" in html


def test_plot_without_numbers_says_so() -> None:
    assert "no numbers yet" in to_html("t", [Section("s", [LinePlot("p", "x", "y", {"a": []})])])


def test_long_curve_is_thinned_but_keeps_its_extremes() -> None:
    points = [(x, 50.0) for x in range(100_000)]
    points[12_345] = (12_345, 100.0)
    points[67_890] = (67_890, 0.0)
    html = to_html("t", [Section("s", [LinePlot("p", "x", "y", {"a": points})])])
    assert len(html) < 40_000
    # On the axes 0..99,999 and 0..100 the two odd points stand at 12.35 % and 67.89 % of the width.
    assert "L12.35 0.00L" in html
    assert "L67.89 100.00L" in html


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0, 10, [0, 2, 4, 6, 8, 10]),
        (1.62, 8.31, [0, 2, 4, 6, 8, 10]),
        (0.1, 0.3, [0.1, 0.15, 0.2, 0.25, 0.3]),
        (-3, 3, [-4, -2, 0, 2, 4]),
        (2, 2, [1, 1.5, 2, 2.5, 3]),
        (0, 0, [-1, -0.5, 0, 0.5, 1]),
    ],
)
def test_ticks_are_round_and_cover_the_range(
    low: float, high: float, expected: list[float]
) -> None:
    assert round_ticks(low, high) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("value", "text"),
    [(12345, "12,345"), (0.25, "0.25"), (1.23456, "1.235"), (98765.4, "98,765"), (math.nan, "nan")],
)
def test_numbers_are_written_for_people(value: float, text: str) -> None:
    assert format_number(value) == text


def test_ticks_of_one_axis_have_one_form() -> None:
    plot = LinePlot("p", "x", "y", {"a": [(0, -0.002), (3_000_000, 0.01)]})
    labels = re.findall(r'<span class="[xy]"[^>]*>([^<]*)<', to_html("t", [Section("s", [plot])]))
    y_labels = ["-0.005", "0", "0.005", "0.010"]
    x_labels = ["0", "0.5M", "1.0M", "1.5M", "2.0M", "2.5M", "3.0M"]
    assert labels == y_labels + x_labels


def test_markdown_keeps_tables_whole() -> None:
    text = to_markdown("t", [Section("s", [Table(["name", "n"], [["a|b\nc", 1200], ["`x`", 3]])])])
    assert text == (
        "# t\n\n## s\n\n| name | n |\n| --- | --: |\n| a\\|b c | 1,200 |\n| \\`x\\` | 3 |\n"
    )


def test_markdown_fence_is_longer_than_any_in_the_text() -> None:
    text = to_markdown("t", [Section("s", [Code("````\ninner\n````")])])
    assert "`````text\n````\ninner\n````\n`````" in text


def test_markdown_of_a_plot_is_a_table_of_its_numbers() -> None:
    plot = LinePlot("Loss", "step", "nats", {"train": [(0, 5.5), (10, 1.5), (20, 2.0)]})
    assert "| train | 3 | 5.5 | 1.5 | 5.5 | 2 | 20 |" in to_markdown("t", [Section("s", [plot])])


def test_markdown_shows_a_conversation_as_quotes() -> None:
    text = to_markdown("t", [Section("s", [Transcript([("user", "a\nb"), ("assistant", "<c>")])])])
    assert text.endswith("**user**\n\n> a\n> b\n\n**assistant**\n\n> &lt;c>\n")
