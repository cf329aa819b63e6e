"""Arithmetic that is handed to the Python tool: up to two digits, and products of three.

A model of a few million parameters cannot add two-digit numbers reliably, and need not: it has to notice that a
calculation is wanted, copy the two numbers into a call, and copy the result into its answer.
Copying is learned from variety, not from repetition, so pairs of numbers are drawn anew for every
conversation and there are many wordings.
"""

from __future__ import annotations

import random

from llmpipe.assistant.conversation import Conversation, ask
from llmpipe.assistant.render import PythonCall, Text, ToolOutput
from llmpipe.stages.sft.generators import Pool
from llmpipe.tasks.arithmetic import Calculation, Operator, is_held_out

# Wordings with the operator as a sign; {op} is "+", "-" or "*".
WITH_SIGN = (
    "What is {a} {op} {b}?",
    "What is {a} {op} {b}",
    "what is {a} {op} {b}?",
    "What's {a} {op} {b}?",
    "{a} {op} {b}",
    "{a} {op} {b} = ?",
    "{a} {op} {b} =",
    "{a}{op}{b}",
    "{a}{op}{b}=",
    "What is {a}{op}{b}?",
    "How much is {a} {op} {b}?",
    "how much is {a} {op} {b}?",
    "How much is {a}{op}{b}?",
    "Calculate {a} {op} {b}.",
    "calculate {a} {op} {b}",
    "Compute {a} {op} {b}.",
    "Please compute {a} {op} {b}.",
    "Can you calculate {a} {op} {b}?",
    "Could you tell me what {a} {op} {b} is?",
    "Tell me {a} {op} {b}.",
    "Solve {a} {op} {b}.",
    "What does {a} {op} {b} give?",
    "What do I get for {a} {op} {b}?",
    "I need {a} {op} {b}.",
    "Hi, what is {a} {op} {b}?",
    "And what is {a} {op} {b}?",
    "And {a} {op} {b}?",
    "Now {a} {op} {b}.",
)

# Wordings for one operator.
IN_WORDS: dict[Operator, tuple[str, ...]] = {
    "+": (
        "What is {a} plus {b}?",
        "what is {a} plus {b}?",
        "{a} plus {b}",
        "How much is {a} plus {b}?",
        "Add {a} and {b}.",
        "Add {b} to {a}.",
        "What is the sum of {a} and {b}?",
        "What do {a} and {b} make together?",
        "I have {a} apples and get {b} more. How many apples do I have?",
        "A box holds {a} books and another holds {b}. How many books are there?",
    ),
    "-": (
        "What is {a} minus {b}?",
        "what is {a} minus {b}?",
        "{a} minus {b}",
        "How much is {a} minus {b}?",
        "Subtract {b} from {a}.",
        "Take {b} from {a}.",
        "What is left of {a} without {b}?",
        "What is the difference of {a} and {b}?",
        "I have {a} apples and give away {b}. How many apples do I have?",
    ),
    "*": (
        "What is {a} times {b}?",
        "what is {a} times {b}?",
        "{a} times {b}",
        "{a} x {b}",
        "How much is {a} times {b}?",
        "Multiply {a} by {b}.",
        "Multiply {a} and {b}.",
        "What is the product of {a} and {b}?",
        "There are {a} boxes with {b} books each. How many books are there?",
    ),
}

OPERATOR_SHARES: dict[Operator, float] = {"+": 0.7, "-": 0.15, "*": 0.15}
IN_WORDS_SHARE = 0.4
ONE_DIGIT_SHARE = 0.08


def make_arithmetic(n: int, n_held_out: int, rng: random.Random) -> Pool:
    """Draw `n` different conversations to train on, and `n_held_out` with pairs never trained."""
    return Pool(
        _draw(n, rng, held_out=False),
        _draw(n_held_out, rng, held_out=True),
    )


def make_multiplication(
    n: int, n_held_out: int, rng: random.Random, with_tool: bool = True
) -> Pool:
    """Draw products of three-digit numbers, as `make_arithmetic` does.

    Args:
        n: to train on.
        n_held_out: with pairs that are never trained.
        rng: decides which.
        with_tool: without it the answers are given at once, for comparison.
    """

    def draw(n: int, held_out: bool) -> list[Conversation]:
        found: dict[str, Conversation] = {}
        while len(found) < n:
            problem = Calculation(rng.randrange(100, 1000), rng.randrange(100, 1000), "*")
            if is_held_out(problem.a, problem.b) == held_out:
                question = _wording("*", rng).format(a=problem.a, b=problem.b, op="*")
                found[question] = solve(problem, question, "multiplication", with_tool)
        return list(found.values())

    return Pool(draw(n, held_out=False), draw(n_held_out, held_out=True))


def solve(
    problem: Calculation, question: str, source: str = "arithmetic", with_tool: bool = True
) -> Conversation:
    """Return the conversation in which the question is answered, usually through the tool."""
    result = str(problem.result)
    sentence = f"{problem.a} {problem.operator} {problem.b} is {result}."
    if not with_tool:
        return ask(question, sentence, source)
    answer = (PythonCall(problem.expression), ToolOutput(result), Text(sentence))
    return ask(question, answer, source)


def _draw(n: int, rng: random.Random, held_out: bool) -> list[Conversation]:
    conversations: dict[str, Conversation] = {}
    while len(conversations) < n:
        operator = rng.choices(list(OPERATOR_SHARES), list(OPERATOR_SHARES.values()))[0]
        problem = Calculation(_number(rng), _number(rng), operator)
        if is_held_out(problem.a, problem.b) == held_out:
            question = _wording(operator, rng).format(a=problem.a, b=problem.b, op=operator)
            conversations[question] = solve(problem, question)
    return list(conversations.values())


def _number(rng: random.Random) -> int:
    return rng.randrange(10) if rng.random() < ONE_DIGIT_SHARE else rng.randrange(10, 100)


def _wording(operator: Operator, rng: random.Random) -> str:
    return rng.choice(IN_WORDS[operator] if rng.random() < IN_WORDS_SHARE else WITH_SIGN)
