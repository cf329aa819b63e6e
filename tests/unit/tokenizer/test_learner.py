"""Merges against the readable twin and rustbpe; counts beyond 32 bits; ties and overlaps."""

from __future__ import annotations

import random

import numpy as np
import pyarrow as pa
import pytest
import rustbpe

from llmpipe.tokenizer import twin
from llmpipe.tokenizer.learner import learn_merges
from llmpipe.tokenizer.patterns import PATTERNS
from llmpipe.tokenizer.piece_counts import PieceCounter, PieceCounts


def counts_of(pieces: dict[bytes, int]) -> PieceCounts:
    array = pa.array(list(pieces), type=pa.large_binary())
    return PieceCounts(array, np.array(list(pieces.values()), dtype=np.int64))


def twin_tokens(pieces: dict[bytes, int], n_merges: int) -> list[bytes]:
    merges = twin.train([p for p, n in pieces.items() for _ in range(n)], n_merges)
    tokens = {i: bytes([i]) for i in range(256)}
    for (left, right), new_id in merges.items():
        tokens[new_id] = tokens[left] + tokens[right]
    return [tokens[256 + i] for i in range(len(merges))]


@pytest.mark.parametrize("alphabet", [b"ab", b"abc", b"abcdefgh"])
def test_merges_are_the_twins_with_many_ties_and_repeats(alphabet: bytes) -> None:
    """Few letters make runs like `aaaa` and many pairs that are equally frequent."""
    rng = random.Random(len(alphabet))
    for _ in range(25):
        pieces = {
            bytes(rng.choices(alphabet, k=rng.randint(1, 12))): rng.randint(1, 4)
            for _ in range(rng.randint(1, 40))
        }
        assert learn_merges(counts_of(pieces), 60) == twin_tokens(pieces, 60), pieces


def test_merges_are_rustbpes() -> None:
    rng = random.Random(5)
    syllables = ["ba", "na", "to", "ken", "li", "s", "the", "ing", "qua", "é", "你", " "]
    text = "".join(rng.choices(syllables, k=12_000))
    trainer = rustbpe.Tokenizer()
    trainer.train_from_iterator(iter([text]), vocab_size=256 + 800, pattern=PATTERNS["qwen2"])
    ranks = sorted(trainer.get_mergeable_ranks(), key=lambda item: item[1])
    counter = PieceCounter(PATTERNS["qwen2"])
    counter.add([text])
    assert learn_merges(counter.finish(), 800) == [bytes(token) for token, _ in ranks[256:]]


def test_a_pair_seen_more_often_than_32_bits_hold_comes_first() -> None:
    """In 32 bits, 2^32 + 5 would be 5, and `xy` would win with 6."""
    pieces = {b"ab": 2**32 + 5, b"xy": 6, b"cd": 2**40, b"abz": 2**32}
    assert learn_merges(counts_of(pieces), 4) == [b"cd", b"ab", b"abz", b"xy"]


def test_fewer_merges_come_back_when_no_pair_is_left() -> None:
    assert learn_merges(counts_of({b"abc": 2, b"d": 9}), 10) == [b"ab", b"abc"]
    assert learn_merges(counts_of({}), 10) == []
