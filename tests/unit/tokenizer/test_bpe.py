"""The tokenizer: ids, special tokens, decoding, errors."""

from __future__ import annotations

import pickle

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmpipe.core.errors import InputError, UserError
from llmpipe.tokenizer.bpe import StreamDecoder, Tokenizer, clean_text
from llmpipe.tokenizer.patterns import PATTERNS, pattern_name, split_pattern
from llmpipe.tokenizer.special import (
    BOS,
    IM_END,
    PAD,
    SPECIAL_TOKENS,
    extend_special,
    place_special,
)

BYTES = {bytes([byte]): byte for byte in range(256)}
RANKS = BYTES | {b"he": 256, b"ll": 257, b"hell": 258, b"hello": 259, b" w": 260}
TOKENIZER = Tokenizer(RANKS, PATTERNS["qwen2"], place_special(len(RANKS)))


def test_merges_apply_in_the_order_learned() -> None:
    # hello -> he l l o -> he ll o -> hell o -> hello; " wo" -> " w" "o"
    assert TOKENIZER.encode("hello wo") == [259, 260, ord("o")]


def test_a_word_and_its_digits_are_split_one_digit_a_token() -> None:
    assert TOKENIZER.encode("1234") == [ord(c) for c in "1234"]


@settings(deadline=None)
@given(st.text(max_size=200))
def test_every_text_comes_back(text: str) -> None:
    assert TOKENIZER.decode(TOKENIZER.encode(text)) == text


@settings(deadline=None)
@given(st.lists(st.sampled_from([*SPECIAL_TOKENS, "hello", " ", "\n"]), max_size=8).map("".join))
def test_typed_special_tokens_stay_text(text: str) -> None:
    ids = TOKENIZER.encode(text)
    assert all(i < len(RANKS) for i in ids)
    assert TOKENIZER.decode(ids) == text


def test_special_tokens_decode_to_their_spelling_or_to_nothing() -> None:
    ids = [TOKENIZER.bos_id, *TOKENIZER.encode("hello"), TOKENIZER.special[IM_END]]
    assert TOKENIZER.decode(ids) == "<|bos|>hello<|im_end|>"
    assert TOKENIZER.decode(ids, show_special=False) == "hello"


def test_special_tokens_are_many_and_distinct_and_end_the_vocabulary() -> None:
    assert len(SPECIAL_TOKENS) == len(set(SPECIAL_TOKENS)) == 32
    assert TOKENIZER.vocab_size == len(RANKS) + 32
    assert TOKENIZER.bos_id == len(RANKS)
    assert TOKENIZER.pad_id == TOKENIZER.special[PAD]


@settings(deadline=None)
@given(st.text(max_size=40), st.lists(st.integers(0, 400), max_size=20))
def test_streamed_text_equals_text_decoded_at_once(text: str, more: list[int]) -> None:
    ids = [*TOKENIZER.encode(text), *(i % TOKENIZER.vocab_size for i in more)]
    stream = StreamDecoder(TOKENIZER)
    parts = [stream.push(i) for i in ids]
    assert "".join(parts) + stream.flush() == TOKENIZER.decode(ids)


def test_a_stream_never_gives_half_a_character() -> None:
    stream = StreamDecoder(TOKENIZER)
    # é is C3 A9 in UTF-8, two tokens here
    assert [stream.push(0xC3), stream.push(0xA9)] == ["", "é"]
    assert [stream.push(0xC3), stream.flush()] == ["", "\ufffd"]
    assert stream.push(ord("a")) == "a"


def test_lone_surrogates_become_replacement_characters_and_are_counted() -> None:
    assert clean_text("a\ud800b\udfff") == ("a\ufffdb\ufffd", 2)
    assert clean_text("\U0001f600") == ("\U0001f600", 0)
    assert TOKENIZER.encode("a\ud800") == TOKENIZER.encode("a\ufffd")


def test_empty_text_has_no_ids() -> None:
    assert TOKENIZER.encode("") == []
    assert TOKENIZER.decode([]) == ""


def test_a_pickled_tokenizer_is_the_same() -> None:
    copy = pickle.loads(pickle.dumps(TOKENIZER))
    assert copy.digest == TOKENIZER.digest
    assert copy.encode("hello") == [259]


def test_the_digest_changes_with_anything_that_changes_ids() -> None:
    special = place_special(len(RANKS))
    swapped = {**RANKS, b"he": 257, b"ll": 256}
    others = [
        Tokenizer(swapped, PATTERNS["qwen2"], special),
        Tokenizer(RANKS, PATTERNS["gpt2"], special),
        Tokenizer(RANKS, PATTERNS["qwen2"], {BOS: len(RANKS)}),
        Tokenizer(RANKS, PATTERNS["qwen2"], special, nfc=True),
    ]
    assert len({TOKENIZER.digest, *(other.digest for other in others)}) == 5


def test_nfc_composes_before_encoding() -> None:
    composing = Tokenizer(RANKS, PATTERNS["qwen2"], {}, nfc=True)
    assert composing.encode("e\u0301") == [0xC3, 0xA9]
    assert TOKENIZER.decode(TOKENIZER.encode("e\u0301")) == "e\u0301"


@pytest.mark.parametrize(
    ("ranks", "special", "message"),
    [
        (RANKS, {"<|x|>": 259}, "special token `<|x|>` has id 259, which is an ordinary token's"),
        (RANKS, {"<|x|>": 300, "<|y|>": 300}, "`<|x|>` and `<|y|>` have the same id 300"),
        (RANKS, {"": 300}, "empty spelling"),
        ({b"a": 0}, {}, "lacks 255 of the 256 single bytes"),
        (BYTES | {b"he": 257}, {}, "256 expected, 257 came"),
    ],
)
def test_a_vocabulary_that_cannot_work_is_refused(
    ranks: dict[bytes, int], special: dict[str, int], message: str
) -> None:
    with pytest.raises(InputError) as error:
        Tokenizer(ranks, PATTERNS["qwen2"], special)
    assert message in str(error.value)


def test_an_id_outside_the_vocabulary_is_named() -> None:
    with pytest.raises(InputError, match="token id 99999 is not in this vocabulary of 293"):
        TOKENIZER.decode([99999])


def test_a_vocabulary_without_a_document_mark_says_so() -> None:
    with pytest.raises(InputError, match="no token that marks the beginning"):
        _ = Tokenizer(RANKS, PATTERNS["qwen2"], {}).bos_id


def test_an_unknown_pattern_gets_a_hint() -> None:
    with pytest.raises(UserError) as error:
        split_pattern("qwen")
    assert error.value.hint == "did you mean `qwen2`?"
    assert pattern_name(split_pattern("o200k")) == "o200k"
    assert pattern_name("x+") is None


def test_extended_special_tokens_keep_the_old_ids_and_leave_no_gap() -> None:
    special = extend_special(300, {"<|endoftext|>": 301})
    assert special["<|endoftext|>"] == 301
    assert special[BOS] == 302
    assert sorted(special.values()) == list(range(300, 384))  # 384 = 3 * 128
    assert set(SPECIAL_TOKENS[:12]) <= set(special)
