"""Pieces by rules over neighbors against the patterns themselves, run by two regex engines."""

from __future__ import annotations

import itertools
import random

import pytest
from tokenizers import Regex, pre_tokenizers

from llmpipe.tokenizer.char_classes import class_table
from llmpipe.tokenizer.encoders import PROBE
from llmpipe.tokenizer.patterns import PATTERNS, WHITESPACE
from llmpipe.tokenizer.splitter import python_pattern, split_text, split_texts

NAMES = list(PATTERNS)
PARTS = [
    "'", "'s", "'LL", "'ſ", "’s", "''s", "'re", "'vE", "'mx", "'d", "a", "Z", "é", "e\u0301", "ǅ",
    "你好", "م", "1", "12", "1234567", "٣", "Ⅷ", " ", "  ", "\t", "\n", "\r\n", "\n\n\n", " \n",
    "\xa0", "\u2028", "\u3000", "\u200b", "\ufeff", "\x00", "\x1c", "\x85", "!", "...", "//", "_",
    "👩‍👩‍👧‍👦", "🇫🇷", "\U0010ffff", "<|bos|>", "camelCase", "HTTPServer", "\u212a", "\u0130", "l", "e",
]  # fmt: skip


def hostile(n: int) -> list[str]:
    rng = random.Random(3)
    return ["".join(rng.choices(PARTS, k=rng.randint(1, 9))) for _ in range(n)]


@pytest.mark.parametrize("name", NAMES)
def test_pieces_are_those_of_the_regex_engines(name: str) -> None:
    """Oniguruma (in `tokenizers`) and Python's `re`, with the classes spelled out."""
    oniguruma = pre_tokenizers.Split(Regex(PATTERNS[name]), "isolated")
    ours_in_re = python_pattern(PATTERNS[name])
    for text in [PROBE, *hostile(1500)]:
        expected = [piece for piece, _ in oniguruma.pre_tokenize_str(text)]
        assert split_text(text, PATTERNS[name]) == expected, repr(text)
        assert [match[0] for match in ours_in_re.finditer(text)] == expected, repr(text)


@pytest.mark.parametrize("name", NAMES)
def test_texts_split_together_are_as_split_alone(name: str) -> None:
    texts = hostile(600)
    together = []
    for pieces in split_texts(texts, PATTERNS[name]):
        bounds = pieces.starts.tolist()
        together += [pieces.data[a:b] for a, b in itertools.pairwise(bounds)]
    alone = [piece.encode() for text in texts for piece in split_text(text, PATTERNS[name])]
    separator = "\ud800".encode("utf-8", "surrogatepass")
    assert [piece for piece in together if piece != separator] == alone


def test_a_long_text_is_cut_where_a_piece_begins_anyway() -> None:
    text = " ".join(hostile(25_000))
    assert len(text) > 200_000
    expected = [match[0] for match in python_pattern(PATTERNS["qwen2"]).finditer(text)]
    assert split_text(text, PATTERNS["qwen2"]) == expected


def test_whitespace_is_what_the_table_of_the_encoders_says() -> None:
    kinds = class_table()
    assert {chr(i) for i in range(0x110000) if kinds[i] in (3, 4)} == set(WHITESPACE)
