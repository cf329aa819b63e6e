from __future__ import annotations

import pytest

from llmpipe.tasks.base import Answer, AssistantFacts, Example
from llmpipe.tasks.identity import identity_examples, says_the_name
from llmpipe.tasks.templates import fill, load_topics


@pytest.mark.parametrize(
    ("text", "right"),
    [
        ("I am Pebble.", True),
        ("Pebble", True),
        ("They call me Pebble!", True),
        ("I am Pebbles.", False),
        ("I am pebble.", False),
        ("I am a model.", False),
        ("", False),
    ],
)
def test_truth_table(text: str, right: bool) -> None:
    assert says_the_name(Example("Who are you?", "Pebble"), Answer(text, True)) is right


def test_a_name_may_hold_signs() -> None:
    assert says_the_name(Example("?", "C-3.PO"), Answer("I am C-3.PO.", True))
    assert not says_the_name(Example("?", "C-3.PO"), Answer("I am C-3xPO.", True))


def test_there_are_enough_wordings() -> None:
    topics = load_topics("identity")
    assert sum(len(topic.questions) for topic in topics) >= 120
    assert len(identity_examples(AssistantFacts("Pebble"), 1000, 1)) >= 50


@pytest.mark.parametrize("name", ["identity", "smalltalk", "refusals"])
def test_no_held_out_wording_is_trained(name: str) -> None:
    topics = load_topics(name)
    trained = [question.casefold() for topic in topics for question in topic.questions]
    held_out = [question.casefold() for topic in topics for question in topic.held_out]
    assert len(set(held_out)) == len(held_out)
    assert not set(trained) & set(held_out)


def test_every_answer_about_itself_gives_the_name() -> None:
    answers = [answer for topic in load_topics("identity") for answer in topic.answers]
    assert all("{name}" in answer for answer in answers)


def test_fill() -> None:
    facts = {"name": "Pebble", "maker": "us", "date": None}
    assert fill("I am {name}, made by {maker}.", facts) == "I am Pebble, made by us."
    assert fill("{maker} made me.", facts) == "Us made me."
    assert fill("I know pages of {date}.", facts) is None
    assert fill("I know {unknown}.", facts) is None
