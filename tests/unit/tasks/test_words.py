from __future__ import annotations

import re

import pytest

from llmpipe.tasks.base import Answer, AssistantFacts, Example
from llmpipe.tasks.words import (
    count_examples,
    english_words,
    gives_the_text,
    is_held_out_word,
    third_examples,
)

FACTS = AssistantFacts("Pebble")


@pytest.mark.parametrize(
    ("answer", "right"),
    [
        (Answer("'uqts' is every third character.", True, ("x",)), True),
        (Answer("'uqts'", True, ("x",)), True),
        (Answer("'uqts' is every third character.", True), False),  # guessed
        (Answer("uqts", True, ("x",)), False),
        (Answer("'uqt' and 'uqts'", True, ("x",)), False),
        (Answer("", True, ("x",)), False),
    ],
)
def test_truth_table(answer: Answer, right: bool) -> None:
    assert gives_the_text(Example("?", "uqts"), answer) is right


def test_the_talks_words_are_asked_first_and_never_trained() -> None:
    assert count_examples(FACTS, 5, 1)[0] == Example("How many r are in strawberry?", "3")
    assert third_examples(FACTS, 5, 1)[0].expected == "uqts"
    assert is_held_out_word("strawberry")
    assert is_held_out_word("ubiquitous")


def test_there_are_enough_words_to_ask_about() -> None:
    words = english_words()
    assert len(words) == len(set(words))
    assert all(word.isascii() and word.isalpha() and word.islower() for word in words)
    assert sum(map(is_held_out_word, words)) >= 80


def test_expected_answers_are_counted_letter_by_letter() -> None:
    known = {word for word in english_words() if is_held_out_word(word)}
    for example in count_examples(FACTS, 60, 2):
        said = re.findall(r"\w+", example.question)
        [word] = known & set(said)
        [letter] = [text for text in said if len(text) == 1]
        assert sum(char == letter for char in word) == int(example.expected)


def test_examples_follow_from_the_seed() -> None:
    assert third_examples(FACTS, 9, 1) == third_examples(FACTS, 9, 1) != third_examples(FACTS, 9, 2)
