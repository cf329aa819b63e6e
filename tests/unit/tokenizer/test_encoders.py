"""The fast encoder, the reference, and runs that the reference cannot take whole."""

from __future__ import annotations

import random

import numpy as np
import pytest
import tiktoken
from hypothesis import given, settings
from hypothesis import strategies as st

from llmpipe.tokenizer import encoders
from llmpipe.tokenizer.encoders import (
    LONG_RUN,
    FastEncoder,
    ReferenceEncoder,
    choose_encoder,
    cut_long_runs,
)
from llmpipe.tokenizer.patterns import PATTERNS, WHITESPACE

RANKS = {bytes([byte]): byte for byte in range(256)}
for token in (b"  ", b"    ", b"        ", b"\n\n", b" a", b"th", b"the", b" the"):
    RANKS[token] = len(RANKS)


@pytest.mark.parametrize("name", PATTERNS)
def test_the_fast_encoder_is_chosen_where_it_is_exact(name: str) -> None:
    encoder, why = choose_encoder(RANKS, PATTERNS[name])
    assert encoder.name == "splintr"
    assert "equal tiktoken's" in why


def test_an_encoder_with_other_ids_is_not_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    class Wrong(FastEncoder):
        def encode(self, text: str) -> np.ndarray:
            return super().encode(text)[:-1]

    monkeypatch.setattr(encoders, "FastEncoder", Wrong)
    encoder, why = choose_encoder(RANKS, PATTERNS["qwen2"])
    assert encoder.name == "tiktoken"
    assert "ids differ" in why


def test_a_pattern_that_the_fast_encoder_cannot_take_falls_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(ranks: object, pattern: str) -> None:
        raise ValueError("no such syntax")

    monkeypatch.setattr(encoders, "FastEncoder", refuse)
    encoder, why = choose_encoder(RANKS, PATTERNS["qwen2"])
    assert encoder.name == "tiktoken"
    assert "no such syntax" in why


@pytest.mark.parametrize("name", ["qwen2", "gpt2"])
@pytest.mark.parametrize(
    "text",
    ["a" + " " * 1_100_000 + "the", "!\n\n" + "\t" * 1_100_000, "\n" * 1_100_000 + "/x"],
    ids=["spaces", "tabs at the end", "line breaks"],
)
def test_a_million_spaces_do_not_panic(name: str, text: str) -> None:
    ids = ReferenceEncoder(RANKS, PATTERNS[name]).encode(text)
    assert np.array_equal(ids, FastEncoder(RANKS, PATTERNS[name]).encode(text))


def _run_texts() -> st.SearchStrategy[str]:
    """Texts of a few long runs of mixed whitespace between short pieces that touch them."""
    word = st.sampled_from(["a", "the", "!", "?/", "/", "7", "'s", "é", "\x1c", ".\n"])
    mix = st.sampled_from([" ", "\t", "\n", " \n", "\r\n", "\u3000", " \u2028", "\n  "])
    part = st.tuples(word, mix, st.integers(1, 60), mix, st.integers(0, 60), st.booleans()).map(
        lambda p: (p[0] if p[5] else "") + p[1] * p[2] + p[3] * p[4]
    )
    return st.lists(part, min_size=1, max_size=4).map("".join) | st.text(
        alphabet=WHITESPACE + "a!/"
    )


@pytest.mark.parametrize("name", PATTERNS)
@settings(deadline=None)
@given(text=_run_texts())
def test_cutting_never_changes_the_ids(name: str, text: str) -> None:
    """With runs counted as long from 8 characters on, cut and whole text must have equal ids."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(encoders, "LONG_RUN", 8)
        segments = list(cut_long_runs(text, PATTERNS[name]))
        cut = ENCODERS[name].encode(text)
    assert "".join(segment for segment, _ in segments) == text
    assert cut.tolist() == WHOLE[name].encode_ordinary(text)


ENCODERS = {name: ReferenceEncoder(RANKS, pattern) for name, pattern in PATTERNS.items()}
WHOLE = {
    name: tiktoken.Encoding("t", pat_str=pattern, mergeable_ranks=RANKS, special_tokens={})
    for name, pattern in PATTERNS.items()
}


def test_runs_are_cut_where_they_are_long_and_only_there() -> None:
    text = "a" + " " * (LONG_RUN + 1) + "b" + " " * 100 + "c"
    cut = [(len(segment), is_piece) for segment, is_piece in cut_long_runs(text, PATTERNS["qwen2"])]
    assert cut == [(1, False), (LONG_RUN, True), (1 + 1 + 100 + 1, False)]


def test_a_pattern_of_unknown_behavior_is_left_alone() -> None:
    text = "a" + " " * (2 * LONG_RUN)
    assert list(cut_long_runs(text, "x|y")) == [(text, False)]


def test_a_long_text_of_random_words_is_not_cut() -> None:
    rng = random.Random(1)
    text = "".join(rng.choice("abc  \n") for _ in range(3 * LONG_RUN))
    assert list(cut_long_runs(text, PATTERNS["qwen2"])) == [(text, False)]
