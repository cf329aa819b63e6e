from __future__ import annotations

import random
from collections import Counter

import pytest

from llmpipe.assistant.conversation import ask
from llmpipe.stages.sft.config import Probing
from llmpipe.stages.sft.probing import REFUSALS, probe, teach
from llmpipe.tasks.overlap import is_same_answer


@pytest.mark.parametrize(
    ("answer", "right"),
    [
        ("He played for the Buffalo Sabres.", True),
        ("buffalo sabres", True),
        ("He played for Buffalo and the Sabres.", False),
        ("He played for Toronto.", False),
        ("", False),
    ],
)
def test_answers_are_compared_by_their_words(answer: str, right: bool) -> None:
    assert is_same_answer(answer, "Buffalo Sabres") is right


def test_an_empty_expectation_is_never_met() -> None:
    assert not is_same_answer("anything", "...")


def test_what_is_not_known_is_refused_and_what_is_half_known_left_out() -> None:
    """The assistant below always knows `a`, never knows `b`, and knows `c` every other time."""
    times: Counter[str] = Counter()

    def answer(questions: list[str]) -> list[str]:
        texts = []
        for question in questions:
            times[question] += 1
            knows = question == "a" or (question == "c" and times[question] % 2)
            texts.append(f"It is {question}." if knows else f"It is {times[question]}, surely.")
        return texts

    conversations = [ask(name, f"It is {name}.", "documents") for name in "abc"]
    probed = probe(conversations, answer, Probing(samples=5, min_right=4))
    assert [(p.verdict, p.n_right) for p in probed] == [("known", 5), ("unknown", 0), ("unsure", 3)]
    taught = teach(probed, random.Random(1)).train
    assert [c.messages[0].text for c in taught] == ["a", "b"]
    assert taught[0].messages[1].text == "It is a."
    assert taught[1].messages[1].text in REFUSALS
