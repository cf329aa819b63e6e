"""The readable twin, against arithmetic done by hand."""

from __future__ import annotations

from llmpipe.tokenizer import twin


def test_the_wikipedia_example() -> None:
    """`aaabdaaabac`: aa twice... three merges leave XdXac.

    Source: https://en.wikipedia.org/wiki/Byte-pair_encoding. Pairs: aa 4 (overlapping), ab 2.
    Z = aa: ZabdZabac. Then Za and ab twice each; the smaller ids are a=97 b=98, so Y = ab: ZYdZYac.
    X = ZY: XdXac.
    """
    text = b"aaabdaaabac"
    merges = twin.train([text], 3)
    assert merges == {(97, 97): 256, (97, 98): 257, (256, 257): 258}
    assert twin.encode(text, merges) == [258, ord("d"), 258, ord("a"), ord("c")]


def test_the_pair_116_32_becomes_256() -> None:
    text = b"what it wrote at night, but not yet"  # "t" and a space: 5 times
    assert next(iter(twin.train([text], 1).items())) == ((116, 32), 256)


def test_overlapping_pairs_are_replaced_from_the_left() -> None:
    assert twin.replace([1, 1, 1], (1, 1), 9) == [9, 1]
    assert twin.replace([1, 1, 1, 1], (1, 1), 9) == [9, 9]


def test_training_stops_when_no_pair_is_left() -> None:
    assert twin.train([b"ab"], 10) == {(97, 98): 256}
    assert twin.train([b"a", b"b"], 10) == {}


def test_explaining_counts_down() -> None:
    lines = list(twin.explain("at at at ", 2))
    assert lines == [
        "9 bytes, 256 symbols",
        "97 116 → 256  'at'  9 → 6 ids",
        "256 32 → 257  'at '  6 → 3 ids",
    ]
