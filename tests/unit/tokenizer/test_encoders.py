"""The fast encoder, the reference, and runs that the reference cannot take whole."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
import tiktoken
from hypothesis import given, settings
from hypothesis import strategies as st

from llmpipe.tokenizer import encoders, patterns
from llmpipe.tokenizer.encoders import (
    EncoderPlan,
    FastEncoder,
    ReferenceEncoder,
    choose_encoder,
)
from llmpipe.tokenizer.merges import write_ranks
from llmpipe.tokenizer.patterns import LONG_RUN, PATTERNS, WHITESPACE, cut_long_runs

RANKS = {bytes([byte]): byte for byte in range(256)}
for token in (b"  ", b"    ", b"        ", b"\n\n", b" a", b"th", b"the", b" the"):
    RANKS[token] = len(RANKS)


@pytest.mark.parametrize("name", PATTERNS)
def test_the_fast_encoder_is_chosen_where_it_is_exact(name: str) -> None:
    encoder, why = choose_encoder(RANKS, PATTERNS[name])
    assert encoder.name == "gigatoken"
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
    def refuse(rank_lines: bytes, pattern: str) -> None:
        raise ValueError("no such syntax")

    monkeypatch.setattr(encoders, "FastEncoder", refuse)
    encoder, why = choose_encoder(RANKS, PATTERNS["qwen2"])
    assert encoder.name == "tiktoken"
    assert "no such syntax" in why


def test_a_gigatoken_with_other_names_falls_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gigatoken.gigatoken_rs.BPETokenizer", object)
    encoder, why = choose_encoder(RANKS, PATTERNS["qwen2"])
    assert encoder.name == "tiktoken"
    assert "has no attribute 'from_tiktoken'" in why


def test_a_vocabulary_with_tokens_that_no_merge_makes_is_left_to_the_reference() -> None:
    encoder, why = choose_encoder(RANKS, PATTERNS["llama3"], is_merged=False)
    assert encoder.name == "tiktoken"
    assert "no merge makes some tokens" in why


def test_text_is_normalized_where_the_vocabulary_asks_for_it() -> None:
    encoder, _ = choose_encoder(RANKS, PATTERNS["qwen2"], nfc=True)
    assert encoder.encode("e\u0301").tolist() == list("é".encode())


def test_an_encoder_that_remembers_too_much_is_built_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = FastEncoder(write_ranks(RANKS), PATTERNS["qwen2"])
    before, ids = encoder._inner, encoder.encode("the theme")
    encoder.encode("other words")
    assert encoder._inner is before
    monkeypatch.setattr(encoders, "_LOOK_EVERY_BYTES", 1)
    monkeypatch.setattr(encoders, "_MEMORY_BYTES", -(1 << 40))
    assert np.array_equal(encoder.encode("the theme"), ids)
    assert encoder._inner is not before


def test_an_encoder_opened_from_a_plan_gives_the_same_ids(tmp_path: Path) -> None:
    (tmp_path / "ranks").write_bytes(write_ranks(RANKS))
    for name in ("gigatoken", "tiktoken"):
        plan = EncoderPlan(name, tmp_path / "ranks", PATTERNS["qwen2"], nfc=True)
        opened = plan.open()
        assert opened.name == name
        assert opened.encode("the e\u0301").tolist() == [RANKS[b"the"], ord(" "), *"é".encode()]


@pytest.mark.parametrize("name", ["qwen2", "gpt2", "cl100k"])
@pytest.mark.parametrize(
    "text",
    [
        "a" + " " * 1_100_000 + "the",
        "!\n\n" + "\t" * 1_100_000,
        "\n" * 1_100_000 + "/x",
        "\n  " * 400_000,
    ],
    ids=["spaces", "tabs at the end", "line breaks", "breaks and spaces at the end"],
)
def test_a_million_spaces_do_not_panic(name: str, text: str) -> None:
    ids = ReferenceEncoder(RANKS, PATTERNS[name]).encode(text)
    assert np.array_equal(ids, FastEncoder(write_ranks(RANKS), PATTERNS[name]).encode(text))


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
        patch.setattr(patterns, "LONG_RUN", 8)
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
