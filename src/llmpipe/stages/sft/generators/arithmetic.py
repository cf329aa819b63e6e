"""Arithmetic that is handed to the Python tool: up to two digits, and products of three.

A model of a few million parameters cannot add two-digit numbers reliably, and need not: it has to notice that a
calculation is wanted, copy the two numbers into a call, and copy the result into its answer.
Copying is learned from variety, not from repetition, so pairs of numbers are drawn anew for every
conversation and there are many wordings.
"""

from __future__ import annotations

import random
from collections.abc import Callable

from llmpipe.assistant.conversation import Conversation, ask
from llmpipe.assistant.render import PythonCall, Text, ToolOutput
from llmpipe.stages.sft.generators import Pool, draw_pool
from llmpipe.tasks.arithmetic import Calculation, Operator, is_held_out
from llmpipe.tasks.templates import load_file

WORDINGS = load_file("arithmetic")["trained"]
OPERATOR_SHARES: dict[Operator, float] = {"+": 0.7, "-": 0.15, "*": 0.15}
IN_WORDS_SHARE = 0.4
ONE_DIGIT_SHARE = 0.08


def make_arithmetic(n: int, n_held_out: int, rng: random.Random) -> Pool:
    """Draw `n` different conversations to train on, and `n_held_out` with pairs never trained."""

    def problem() -> Calculation:
        operator = rng.choices(list(OPERATOR_SHARES), list(OPERATOR_SHARES.values()))[0]
        return Calculation(_number(rng), _number(rng), operator)

    return _draw_pool(problem, "arithmetic", n, n_held_out, rng)


def make_multiplication(
    n: int, n_held_out: int, rng: random.Random, with_tool: bool = True
) -> Pool:
    """Draw products of three-digit numbers, as `make_arithmetic` does.

    Args:
        with_tool: Without it the answers are given at once, to compare what a model learns.
    """

    def problem() -> Calculation:
        return Calculation(rng.randrange(100, 1000), rng.randrange(100, 1000), "*")

    return _draw_pool(problem, "multiplication", n, n_held_out, rng, with_tool)


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


def _draw_pool(
    next_problem: Callable[[], Calculation],
    source: str,
    n: int,
    n_held_out: int,
    rng: random.Random,
    with_tool: bool = True,
) -> Pool:
    def next_conversation(held_out: bool) -> Conversation | None:
        problem = next_problem()
        if is_held_out(problem.a, problem.b) != held_out:
            return None
        in_words = rng.random() < IN_WORDS_SHARE
        wordings = WORDINGS["in_words"][problem.operator] if in_words else WORDINGS["with_sign"]
        question = rng.choice(wordings).format(a=problem.a, b=problem.b, op=problem.operator)
        return solve(problem, question, source, with_tool)

    return draw_pool(next_conversation, n, n_held_out)


def _number(rng: random.Random) -> int:
    return rng.randrange(10) if rng.random() < ONE_DIGIT_SHARE else rng.randrange(10, 100)
