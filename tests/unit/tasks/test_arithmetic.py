from __future__ import annotations

import pytest

from llmpipe.tasks.arithmetic import (
    Calculation,
    is_held_out,
    is_right_with_tool,
    sum_examples,
)
from llmpipe.tasks.base import Answer, AssistantFacts, Example

FACTS = AssistantFacts("Pebble")
CALL = ("37+45",)


@pytest.mark.parametrize(
    ("answer", "right"),
    [
        (Answer("37 + 45 is 82.", True, CALL), True),
        (Answer("82", True, CALL), True),
        (Answer("37 + 45 is 82.", False, CALL), True),  # stopping is another task's question
        (Answer("37 + 45 is 82.", True), False),  # guessed, not computed
        (Answer("37 + 45 is 83.", True, CALL), False),
        (Answer("82 is 37 + 45.", True, CALL), False),  # the last number is taken as the answer
        (Answer("37 + 45 is 182.", True, CALL), False),
        (Answer("37 + 45 is -82.", True, CALL), False),
        (Answer("", True, CALL), False),
        (Answer("I do not know.", True, CALL), False),
    ],
)
def test_truth_table(answer: Answer, right: bool) -> None:
    assert is_right_with_tool(Example("What is 37 + 45?", "82"), answer) is right


def test_split_does_not_depend_on_the_order_of_the_numbers() -> None:
    assert all(is_held_out(a, b) == is_held_out(b, a) for a in range(100) for b in range(100))


def test_a_tenth_is_held_out() -> None:
    n = sum(is_held_out(a, b) for a in range(100) for b in range(a, 100))
    assert 0.08 < n / 5050 < 0.12


def test_examples_are_held_out_two_digit_sums_with_their_results() -> None:
    examples = sum_examples(FACTS, 60, seed=3)
    assert len({example.question for example in examples}) == 60
    for example in examples:
        digits = "".join(c if c.isdigit() else " " for c in example.question)
        a, b = map(int, digits.split())
        assert min(a, b) >= 10
        assert max(a, b) <= 99
        assert is_held_out(a, b)
        assert int(example.expected) - a == b


def test_examples_follow_from_the_seed() -> None:
    assert sum_examples(FACTS, 5, 1) == sum_examples(FACTS, 5, 1)
    assert sum_examples(FACTS, 5, 1) != sum_examples(FACTS, 5, 2)


@pytest.mark.parametrize(
    ("problem", "expression", "result"),
    [
        (Calculation(37, 45), "37+45", 82),
        (Calculation(3, 45, "-"), "3-45", -42),
        (Calculation(12, 12, "*"), "12*12", 144),
    ],
)
def test_problem(problem: Calculation, expression: str, result: int) -> None:
    assert (problem.expression, problem.result) == (expression, result)
