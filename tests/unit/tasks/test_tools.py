from __future__ import annotations

import json
from pathlib import Path

import pytest

from llmpipe.assistant.tools import tool_line
from llmpipe.tasks.arithmetic import is_held_out, is_right, product_examples
from llmpipe.tasks.base import Answer, AssistantFacts, Example
from llmpipe.tasks.tools import (
    NO_TOOLS,
    does_without,
    lookup_examples,
    no_tool_examples,
    says_what_was_found,
)

SAID = "Brimot is a lake. (http://atlas.example/brimot)"


@pytest.fixture
def facts(tmp_path: Path) -> AssistantFacts:
    rows = [
        {
            "source": "lookups",
            "messages": [
                {"role": "user", "content": "What is Brimot?"},
                {
                    "role": "assistant",
                    "content": [
                        {"type": "search", "text": "about Brimot"},
                        {"type": "output", "text": "[1] Brimot …"},
                        {"type": "text", "text": SAID},
                    ],
                },
            ],
        },
        {
            "source": "identity",
            "messages": [
                {"role": "user", "content": "Who are you?"},
                {"role": "assistant", "content": "Pebble."},
            ],
        },
    ]
    path = tmp_path / "held_out.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return AssistantFacts("Pebble", path)


def test_lookups_are_the_held_out_ones(facts: AssistantFacts) -> None:
    assert lookup_examples(facts, 9, 1) == [Example("What is Brimot?", SAID)]
    assert lookup_examples(AssistantFacts("Pebble"), 9, 1) == []


@pytest.mark.parametrize(
    ("answer", "right"),
    [
        (Answer(SAID, True, ("about Brimot",)), True),
        (Answer(SAID, True), False),  # not looked up
        (Answer("Brimot is a lake.", True, ("about Brimot",)), False),  # no source
        (Answer(SAID.replace("lake", "hill"), True, ("about Brimot",)), False),
    ],
)
def test_truth_table_of_lookups(answer: Answer, right: bool) -> None:
    assert says_what_was_found(Example("?", SAID), answer) is right


def test_what_wants_a_tool_is_asked_without_any(facts: AssistantFacts) -> None:
    [example] = no_tool_examples(facts, 9, 1)
    assert (example.question, example.system) == ("What is Brimot?", NO_TOOLS)
    assert tool_line([]) == NO_TOOLS
    assert len(no_tool_examples(AssistantFacts("Pebble"), 9, 1)) == 9


@pytest.mark.parametrize(
    ("answer", "right"),
    [
        (Answer("I cannot tell.", True), True),
        (Answer("It is 56088.", True, ("123*456",)), False),
        (Answer("I cannot tell.", False), False),
        (Answer("", True), False),
    ],
)
def test_truth_table_of_no_tools(answer: Answer, right: bool) -> None:
    assert does_without(Example("?", ""), answer) is right


def test_products_are_of_three_digits_and_held_out() -> None:
    examples = product_examples(AssistantFacts("Pebble"), 40, 1)
    assert len({example.question for example in examples}) == 40
    for example in examples:
        digits = "".join(c if c.isdigit() else " " for c in example.question)
        a, b = map(int, digits.split())
        assert 100 <= min(a, b) <= max(a, b) < 1000
        assert is_held_out(a, b)
        assert sum([a] * b) == int(example.expected)


def test_products_may_be_right_without_a_tool() -> None:
    assert is_right(Example("?", "56088"), Answer("123 * 456 is 56088.", True))
    assert not is_right(Example("?", "56088"), Answer("123 * 456 is 56089.", True))
