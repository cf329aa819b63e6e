"""Learning a vocabulary: equal to the readable twin, and clear about what cannot be learned."""

from __future__ import annotations

import random
import re

import pytest

from llmpipe.core.errors import InputError, UserError
from llmpipe.stages.tokenize.train_bpe import learn_vocabulary
from llmpipe.tokenizer import twin
from llmpipe.tokenizer.bpe import Tokenizer
from llmpipe.tokenizer.patterns import split_pattern
from llmpipe.tokenizer.piece_counts import PieceCounter

# The `gpt2` pattern for plain letters and single spaces, in Python's own `re`.
_WORDS = re.compile(r" ?[a-z]+")


def text(n_words: int, seed: int = 1) -> str:
    rng = random.Random(seed)
    syllables = ["ba", "na", "to", "ken", "li", "s", "the", "ing", "qua"]
    words = ("".join(rng.choices(syllables, k=rng.randint(1, 4))) for _ in range(n_words))
    return " ".join(words)


def twin_tokens(source: str, n_merges: int) -> list[bytes]:
    merges = twin.train([piece.encode() for piece in _WORDS.findall(source)], n_merges)
    tokens = {i: bytes([i]) for i in range(256)}
    for (left, right), new_id in merges.items():
        tokens[new_id] = tokens[left] + tokens[right]
    return [tokens[256 + i] for i in range(len(merges))]


def learn(texts: list[str], vocab_size: int, pattern: str) -> Tokenizer:
    counter = PieceCounter(split_pattern(pattern))
    counter.add(texts)
    return learn_vocabulary(counter.finish(), vocab_size, pattern, counter.text_bytes)


def learned(tokenizer: Tokenizer) -> list[bytes]:
    return [tokenizer.token_bytes(i) for i in range(256, len(tokenizer.ranks))]


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_the_merges_are_the_twins(seed: int) -> None:
    source = text(800, seed)
    tokenizer = learn([source], 384, "gpt2")
    assert learned(tokenizer) == twin_tokens(source, 96)


def test_the_learned_ids_are_the_twins() -> None:
    source = text(400)
    tokenizer = learn([source], 384, "gpt2")
    pieces = [piece.encode() for piece in _WORDS.findall(source)]
    merges = twin.train(pieces, 96)
    assert tokenizer.encode(source) == [i for piece in pieces for i in twin.encode(piece, merges)]


def test_the_order_of_texts_does_not_matter() -> None:
    texts = [text(100, seed) for seed in range(8)]
    forward = learn(texts, 384, "qwen2")
    assert learn(texts[::-1], 384, "qwen2").digest == forward.digest


def test_sizes_and_special_tokens() -> None:
    tokenizer = learn([text(800)], 384, "qwen2")
    assert tokenizer.vocab_size == 384
    assert sorted(tokenizer.special.values()) == list(range(352, 384))


def test_no_text_is_an_error() -> None:
    with pytest.raises(InputError, match="the corpus is empty"):
        learn([], 384, "qwen2")


def test_more_merges_than_the_text_has_is_an_error_with_a_size_that_works() -> None:
    with pytest.raises(UserError) as error:
        learn([text(100)], 4096, "qwen2")
    message = str(error.value)
    assert message.startswith("vocab_size 4,096 asks for 3,808 merges, and ")
    match = re.search(r"to at most ([\d,]+)", error.value.hint or "")
    assert match
    size = int(match[1].replace(",", ""))
    assert size % 128 == 0
    assert learn([text(100)], size, "qwen2").vocab_size == size


def test_a_vocabulary_without_room_for_merges_is_an_error() -> None:
    with pytest.raises(UserError, match=r"vocab_size \(256\) must be over 288"):
        learn([text(100)], 256, "qwen2")


def test_long_runs_of_spaces_do_not_stop_training() -> None:
    source = text(400)
    plain = learn([source, "x y"], 384, "qwen2")
    runs = learn([source, "x" + " " * 1_100_000 + " y"], 384, "qwen2")
    assert runs.digest == plain.digest
