"""Sums, differences and products of numbers, to be solved with the tool.

Which pairs of numbers are never trained is decided here, by a hash of the pair, so that the maker
of training conversations and the examiner cannot disagree. The hash is of the unordered pair: one
who has trained on 45 + 37 has seen 37 + 45.
"""

from __future__ import annotations

import operator
import random
import re
from dataclasses import dataclass
from typing import Literal

from llmpipe.tasks.base import Answer, AssistantFacts, Example, Task, is_in_share
from llmpipe.tasks.templates import load_file

Operator = Literal["+", "-", "*"]

HELD_OUT_FRAC = 0.1

WORDINGS = load_file("arithmetic")
_CALCULATE = {"+": operator.add, "-": operator.sub, "*": operator.mul}
_NUMBER = re.compile(r"-?\d+")


@dataclass(frozen=True)
class Calculation:
    """Two numbers and what to do with them."""

    a: int
    b: int
    operator: Operator = "+"

    @property
    def expression(self) -> str:
        """The problem as Python code, without spaces."""
        return f"{self.a}{self.operator}{self.b}"

    @property
    def result(self) -> int:
        """The right answer."""
        result: int = _CALCULATE[self.operator](self.a, self.b)
        return result


def is_held_out(a: int, b: int) -> bool:
    """Tell whether a pair of numbers is kept from training, whatever is done with them."""
    low, high = sorted((a, b))
    return is_in_share(f"arithmetic {low} {high}", HELD_OUT_FRAC)


def sum_examples(facts: AssistantFacts, n: int, seed: int) -> list[Example]:
    """Return up to `n` held-out sums of two-digit numbers, no pair twice."""
    wordings = WORDINGS["examiner"]["sums"]
    pairs = [(a, b) for a in range(10, 100) for b in range(10, 100) if is_held_out(a, b)]
    chosen = random.Random(f"arithmetic {seed}").sample(pairs, min(n, len(pairs)))
    return [
        Example(wordings[i % len(wordings)].format(a=a, b=b), str(a + b))
        for i, (a, b) in enumerate(chosen)
    ]


def product_examples(facts: AssistantFacts, n: int, seed: int) -> list[Example]:
    """Return `n` held-out products of three-digit numbers, no pair twice."""
    wordings = WORDINGS["examiner"]["products"]
    rng = random.Random(f"multiplication {seed}")
    pairs: dict[tuple[int, int], None] = {}
    while len(pairs) < n:
        a, b = rng.randrange(100, 1000), rng.randrange(100, 1000)
        if is_held_out(a, b):
            pairs[min(a, b), max(a, b)] = None
    return [
        Example(wordings[i % len(wordings)].format(a=a, b=b), str(a * b))
        for i, (a, b) in enumerate(pairs)
    ]


def is_right(example: Example, answer: Answer) -> bool:
    """Accept an answer whose last number is the expected one."""
    numbers = _NUMBER.findall(answer.text)
    return bool(numbers) and numbers[-1] == example.expected


def is_right_with_tool(example: Example, answer: Answer) -> bool:
    """Accept an answer whose last number is the expected one, if Python was called for it."""
    return bool(answer.tool_calls) and is_right(example, answer)


ARITHMETIC = Task(
    name="arithmetic",
    version=1,
    summary="held-out sums of two-digit numbers, solved with the Python tool",
    examples=sum_examples,
    is_right=is_right_with_tool,
)

MULTIPLICATION = Task(
    name="multiplication",
    version=1,
    summary="held-out products of three-digit numbers, with a tool or without",
    examples=product_examples,
    is_right=is_right,
)
