from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmpipe.core.errors import InputError
from llmpipe.tasks.overlap import collect_runs, normalize_words, strings_of

QUESTION = "Natalia sold 48 clips to her friends in April, and half as many in May: how many?"


def shares_a_run(text: str, texts: list[str], n: int) -> bool:
    """The slow twin: look for every run as a list of words."""
    words = normalize_words(text)
    own = {tuple(words[i : i + n]) for i in range(len(words) - n + 1)}
    return any(
        tuple(theirs[i : i + n]) in own
        for theirs in map(normalize_words, texts)
        for i in range(len(theirs) - n + 1)
    )


WORDS = st.lists(st.sampled_from("abc"), min_size=4, max_size=12).map(" ".join)


@given(st.lists(WORDS, min_size=1, max_size=4), WORDS)
@settings(max_examples=100, deadline=None)
def test_runs_are_those_of_the_slow_twin(texts: list[str], text: str) -> None:
    runs = collect_runs(texts, n_words=4, min_words=4)
    assert (runs.find(text) is not None) == shares_a_run(text, texts, 4)


def test_case_punctuation_and_numbers_do_not_hide_a_question() -> None:
    runs = collect_runs([QUESTION], n_words=13, min_words=8)
    hidden = QUESTION.upper().replace("48", "1,048").replace(",", " -")
    assert runs.find(f"Here is one. {hidden} Thanks.") is not None
    assert runs.find("Natalia sold 48 clips to her friends in June.") is None


def test_short_texts_count_as_a_whole_from_a_length_on() -> None:
    runs = collect_runs(["one two three four", "one two"], n_words=13, min_words=4)
    assert runs.find("He said: One, two, three, four!") == ["one", "two", "three", "four"]
    assert runs.find("one two") is None


def test_every_string_of_a_line_is_text(tmp_path: Path) -> None:
    path = tmp_path / "set.jsonl.gz"
    path.write_bytes(gzip.compress(json.dumps({"q": "a", "c": ["b", {"d": "e"}], "n": 1}).encode()))
    assert list(strings_of(path)) == ["a", "b", "e"]


def test_a_line_that_is_no_json_is_named(tmp_path: Path) -> None:
    path = tmp_path / "set.jsonl"
    path.write_text('{"q": "a"}\nno\n')
    with pytest.raises(InputError, match=r"set\.jsonl:2: not JSON"):
        list(strings_of(path))
