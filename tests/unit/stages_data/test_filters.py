"""Every filter keeps a plain page, and drops one page per reason, saying which."""

from __future__ import annotations

import dataclasses
from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmpipe.stages.data.document import Document, Drop, SplitText
from llmpipe.stages.data.splitting import count_sentences
from llmpipe.stages.data.steps.c4 import C4, C4Config
from llmpipe.stages.data.steps.fineweb import FineWeb, FineWebConfig
from llmpipe.stages.data.steps.gopher_quality import GopherQuality, GopherQualityConfig
from llmpipe.stages.data.steps.gopher_repetition import (
    GopherRepetition,
    GopherRepetitionConfig,
    count_repeated,
)
from llmpipe.stages.data.steps.ngrams import Ngrams

PROSE = """The harbor of the old town wakes long before the sun. Fishermen carry their nets down the steps.

A baker opens the shutters of her shop and waves to them. They have known each other for thirty years.
Nobody says much, because everything that matters was said on other mornings.

By seven the market is full of voices, and gulls circle over crates with silver fish. Children on their way
to school stop to look at the crabs. One of them asks what they eat, and an old man begins to explain."""


def document(text: str) -> Document:
    return Document(url="https://example.org/", date="2024-01-01", content=SplitText(text))


def reason(drop: Drop | None) -> str | None:
    return drop and drop.reason


ALL = {
    "gopher_repetition": GopherRepetition(GopherRepetitionConfig()),
    "gopher_quality": GopherQuality(GopherQualityConfig()),
    "c4": C4(C4Config()),
    "fineweb": FineWeb(FineWebConfig()),
}


@pytest.mark.parametrize("name", ALL)
def test_prose_is_kept(name: str) -> None:
    assert ALL[name](document(PROSE)) is None


def distinct(n: int) -> list[str]:
    """Words that never repeat and have no common part."""
    return [f"w{i}{'abcdefghij'[i % 10] * (i % 5 + 1)}" for i in range(n)]


def ngram_bomb(n: int, others: int) -> str:
    """A text in which one run of `n` words stands three times between words that stand once."""
    words, fresh = [], iter(distinct(others * 3 + n))
    run = [next(fresh) for _ in range(n)]
    for _ in range(3):
        words += run + [next(fresh) for _ in range(others)]
    return " ".join(words)


REPETITION = {
    "dup_paragraphs": "One and two.\n\n" * 3 + " ".join(distinct(300)),
    "dup_paragraph_chars": "\n\n".join(["long " * 40, "long " * 40, *distinct(20)]),
    "dup_lines": "\n".join(["short line"] * 4 + [" ".join(distinct(300))]),
    "dup_line_chars": "\n".join(["x" * 100, "x" * 100, *distinct(20)]),
    "top_2_gram": "alpha beta " * 9 + " ".join(distinct(30)),
    "top_3_gram": " ".join(
        f"alpha beta gamma {a} {b}" for a, b in zip(distinct(8), "stuvwxyz", strict=True)
    )
    + " "
    + " ".join(distinct(43)[8:]),
    "dup_5_gram": ngram_bomb(5, 10),
    "dup_10_gram": ngram_bomb(10, 20),
}


@pytest.mark.parametrize("expected", REPETITION)
def test_repetition_is_dropped_with_its_reason(expected: str) -> None:
    only = {f.name: 1.0 for f in dataclasses.fields(GopherRepetitionConfig)}
    field = f"max_{expected}"
    only[field] = getattr(GopherRepetitionConfig(), field)
    drop = GopherRepetition(GopherRepetitionConfig(**only))(document(REPETITION[expected]))
    assert drop is not None
    assert drop.reason == expected
    assert drop.value > drop.threshold == only[field]


def test_first_broken_rule_is_the_reason() -> None:
    assert reason(ALL["gopher_repetition"](document(REPETITION["dup_lines"]))) == "dup_lines"


QUALITY = {
    "too_short": "the rain and the wind of the north",
    "short_words": "a b c d " * 20 + "the and of",
    "long_words": "internationalization " * 60 + "the and of",
    "hashes": PROSE + " # tag" * 40,
    "ellipses": PROSE + " and then ..." * 40,
    "bullet_lines": "\n".join(f"- {line}" for line in PROSE.replace("\n", " ").split(". ")),
    "ellipsis_lines": "\n".join(f"{line} …" for line in [PROSE.replace("\n", " ")] * 2),
    "few_alpha_words": PROSE + " 12 34 | 56 ;" * 30,
    "few_stop_words": " ".join(["winter", "summer", "garden", "river"] * 20),
}


@pytest.mark.parametrize("expected", QUALITY)
def test_bad_quality_is_dropped_with_its_reason(expected: str) -> None:
    assert reason(ALL["gopher_quality"](document(QUALITY[expected]))) == expected


def test_too_long() -> None:
    short = GopherQuality(GopherQualityConfig(max_words=60))
    drop = short(document(PROSE))
    assert drop == Drop("too_long", len(SplitText(PROSE).words), 60)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (PROSE + "\nLorem ipsum dolor sit amet.", "lorem_ipsum"),
        (PROSE + "\nfunction run() { return 1; }", "curly_bracket"),
        ("One sentence is here. A second one is too.", "few_sentences"),
    ],
)
def test_c4_drops_pages(text: str, expected: str) -> None:
    assert reason(C4(C4Config())(document(text))) == expected


def test_c4_cleans_lines() -> None:
    page = document(
        PROSE
        + "\nPlease enable JavaScript to see this."
        + "\nThis site uses cookies to be nice."
        + "\nHome Contact"
        + "\nx" * 1
        + "\nA claim [12] that stands [citation needed] here."
        + "\n"
        + "y" * 1001
        + " and three more words"
    )
    assert C4(C4Config())(page) is None
    lines = page.text.split("\n")
    assert lines[-1] == "A claim  that stands  here."
    assert not any(word in page.text for word in ("JavaScript", "cookies", "Contact", "yyy"))
    assert lines[0] == PROSE.split("\n")[0]


def test_c4_terminal_punctuation_is_a_setting() -> None:
    page = document(PROSE + "\nno full stop at the end")
    strict = C4(C4Config(require_terminal_punctuation=True, min_sentences=1))
    assert strict(page) is None
    assert "no full stop" not in page.text


@pytest.mark.parametrize(
    ("line", "n"),
    [
        ("", 0),
        ("no end", 1),
        ("One. Two! Three?", 3),
        ('He said "stop." Then he left.', 2),
        ("Dr. Smith met J. R. Smith in 3.5 hours.", 1),
        ("version 1.2 e.g. this one", 1),
    ],
)
def test_count_sentences(line: str, n: int) -> None:
    assert count_sentences(line) == n


FINEWEB = {
    "line_punctuation": "\n".join(
        f"this is line number {word} of many more to come" for word in distinct(30)
    ),
    "short_lines": "\n".join(f"{word} is short." for word in distinct(30)),
    "dup_line_chars": PROSE + "\n" + PROSE.split("\n")[0],
    "list": "\n".join(f"{word}." for word in distinct(30)),
}


@pytest.mark.parametrize("expected", FINEWEB)
def test_fineweb_drops_with_its_reason(expected: str) -> None:
    settings: dict[str, Any] = {"max_short_lines": 1.0} if expected == "list" else {}
    assert reason(FineWeb(FineWebConfig(**settings))(document(FINEWEB[expected]))) == expected


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("text", ["", "\n", "x", "…", "\u2028", "." * 100_000, "a b " * 20_000])
def test_odd_texts_raise_nothing(name: str, text: str) -> None:
    ALL[name](document(text))


def test_thresholds_come_from_the_settings() -> None:
    lenient = GopherQuality(GopherQualityConfig(min_words=5, min_stop_words=0))
    assert lenient(document("winter summer garden river mountain")) is None


# Measures, by hand


def test_count_repeated() -> None:
    assert count_repeated(["ab", "c", "ab", "ab"]) == (2, 4)


def test_top_ngram_chars() -> None:
    # "a b" stands twice; with its space that is 2 * 3 characters.
    assert Ngrams(["a", "b", "c", "a", "b"]).top_chars(2) == 6
    assert Ngrams(["a"]).top_chars(2) == 0
    # "aa b" and "b c" stand twice each; the first of them counts, 2 * 4 characters.
    assert Ngrams(["aa", "b", "c", "aa", "b", "c"]).top_chars(2) == 8


def test_repeated_ngram_chars_counts_no_overlap_twice() -> None:
    # a a a a a a: at 0 (a a) is new, at 1 it is repeated and 1-2 are passed, at 3 again; 4 characters.
    ngrams = Ngrams(["a"] * 6)
    assert ngrams.repeated_chars(2) == 4
    assert ngrams.most_repeated_chars(2) == 5  # all but the first word


@given(st.lists(st.sampled_from(["a", "bb", "ccc", "d"]), max_size=40), st.integers(2, 6))
def test_ngrams_agree_with_counting_tuples(words: list[str], n: int) -> None:
    counts = Counter(zip(*(words[i:] for i in range(n)), strict=False))
    top = max(counts.values(), default=0)
    first = next((ngram for ngram in counts if counts[ngram] == top), ())
    seen: set[tuple[str, ...]] = set()
    repeated = i = 0
    while i + n <= len(words):
        ngram = tuple(words[i : i + n])
        repeated += sum(map(len, ngram)) if ngram in seen else 0
        i += n if ngram in seen else 1
        seen.add(ngram)
    ngrams = Ngrams(words)
    assert ngrams.top_chars(n) == (len(" ".join(first)) * top if first else 0)
    assert (ngrams.most_repeated_chars(n) == 0) == (top <= 1)
    assert ngrams.repeated_chars(n) == repeated <= ngrams.most_repeated_chars(n)


def test_tokens() -> None:
    assert SplitText("It's 3.5 km (U.S.) at 10:30, see https://a.b/c?d ...").tokens == [
        "It", "'s", "3.5", "km", "(", "U.S.", ")", "at", "10:30", ",", "see", "https://a.b/c?d", "...",
    ]  # fmt: skip
