"""Counting pieces: exact, in parts, in files, and pruned by a bound that is told."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from llmpipe.tokenizer.patterns import PATTERNS
from llmpipe.tokenizer.piece_counts import (
    MAX_PIECE_BYTES,
    PieceCounter,
    PieceCounts,
    PrunedPieces,
    add_files,
    save_counts,
)
from llmpipe.tokenizer.splitter import python_pattern

QWEN2 = PATTERNS["qwen2"]


def texts(n: int, seed: int = 1) -> list[str]:
    rng = random.Random(seed)
    words = [
        "a",
        "bb",
        "naïve",
        "seventh",
        "eighth88",
        "extraordinarily",
        "你好你好你好",
        "\n\n  x",
    ]
    return [" ".join(rng.choices(words, k=rng.randint(0, 30))) for _ in range(n)]


def count(parts: list[str], pattern: str = QWEN2) -> PieceCounts:
    counter = PieceCounter(pattern)
    counter.add(parts)
    return counter.finish()


def as_dict(counts: PieceCounts) -> dict[bytes, int]:
    found = dict(zip(counts.pieces.to_pylist(), counts.counts.tolist(), strict=True))
    assert len(found) == len(counts)  # each piece once
    return found


def by_regex(parts: list[str], pattern: str = QWEN2) -> dict[bytes, int]:
    regex = python_pattern(pattern)
    return dict(Counter(m[0].encode() for text in parts for m in regex.finditer(text)))


@pytest.mark.parametrize("name", ["qwen2", "gpt2", "o200k"])
def test_counts_are_those_of_a_counter_over_the_regex(name: str) -> None:
    parts = texts(400)
    assert as_dict(count(parts, PATTERNS[name])) == by_regex(parts, PATTERNS[name])


def test_the_bytes_counted_are_the_texts() -> None:
    counter = PieceCounter(QWEN2)
    counter.add(texts(50))
    assert counter.text_bytes == sum(len(text.encode()) for text in texts(50))


def test_files_add_up_whatever_the_parts(tmp_path: Path) -> None:
    parts = texts(300)
    for i, some in enumerate((parts[:7], parts[7:200], [], parts[200:])):
        save_counts(count(some), tmp_path / f"{i}.arrow")
    paths = sorted(tmp_path.iterdir())
    counts, pruned = add_files(paths, max_pieces=1000)
    assert as_dict(counts) == by_regex(parts)
    assert pruned == PrunedPieces(0, 0, 1)
    again, _ = add_files(paths[::-1], max_pieces=1000)
    assert as_dict(again) == as_dict(counts)


def test_sums_pass_32_bits(tmp_path: Path) -> None:
    counts = count(["token token"])
    large = PieceCounts(counts.pieces, np.full(len(counts), 2**33, dtype=np.int64))
    save_counts(large, tmp_path / "a.arrow")
    total, _ = add_files([tmp_path / "a.arrow"] * 3, max_pieces=10)
    assert as_dict(total) == {b"token": 3 * 2**33, b" token": 3 * 2**33}


def test_the_rarest_are_pruned_and_the_bound_is_told(tmp_path: Path) -> None:
    """Words w0 to w99, word i standing i + 1 times: 30 may stay, so those below 71 go."""
    rng = random.Random(2)
    all_words = [
        f"w{chr(97 + i // 10)}{chr(97 + i % 10)}" for i in range(100) for _ in range(i + 1)
    ]
    rng.shuffle(all_words)
    for i in range(4):
        save_counts(count(all_words[i::4]), tmp_path / f"{i}.arrow")
    counts, pruned = add_files(sorted(tmp_path.iterdir()), max_pieces=30)
    assert sorted(as_dict(counts).values()) == list(range(71, 101))
    assert pruned == PrunedPieces(pieces=70, occurrences=70 * 71 // 2, below=71)


def test_a_piece_of_a_megabyte_is_not_counted() -> None:
    assert as_dict(count(["a b" + " " * 1_000_000 + " c"])) == {b"a": 1, b" b": 1, b" c": 1}
    assert len(count(["x" * MAX_PIECE_BYTES])) == 1
