from __future__ import annotations

import pytest

from llmpipe.assistant.conversation import Conversation, ask
from llmpipe.assistant.render import Message, PythonCall, Text, ToolOutput
from llmpipe.stages.sft.lint import lint

LONG = (
    "This answer goes on and on about many things that nobody has asked for, one after the other, "
)


def rules(question: str, answer: object, own_name: str = "Pebble") -> list[str]:
    found = lint(ask(question, answer, "x"), own_name)  # type: ignore[arg-type]
    return [finding.rule for finding in found]


APPLES = "Emily buys 3 apples and 2 oranges, each orange costs $2, all cost $13. What is an apple?"


@pytest.mark.parametrize(
    ("answer", "found"),
    [
        # The two answers that the talk compares.
        ("The answer is $3. The oranges cost 2 * $2 = $4, so 13 - 4 = 9, and 9 / 3 = 3.", True),
        ("The oranges cost 2 * 2 = 4. 13 - 4 = 9, and 9 / 3 = 3. The answer is $3.", False),
        ("The answer is 3.", False),  # no steps to come after it
        ("With 13 and 2 given: 9 / 3 = 3, and 4 - 2 = 2.", False),  # numbers of the question
    ],
)
def test_results_before_their_steps(answer: str, found: bool) -> None:
    assert ("answer_first" in rules(APPLES, answer)) is found


def test_a_result_from_a_tool_is_not_a_guess() -> None:
    parts = (PythonCall("9/3"), ToolOutput("3.0"), Text("3. For 13 - 4 = 9 and 9 / 3 = 3."))
    assert rules(APPLES, parts) == []


@pytest.mark.parametrize(
    ("answer", "found"),
    [
        (LONG * 2 + "and then it", True),
        (LONG * 2 + "and then it ends.", False),
        ("Paris", False),
        (LONG * 2 + "\n\nYours, Anna", False),
        ((Text("Let me see."), PythonCall("1+1")), True),
    ],
)
def test_answers_that_break_off(answer: object, found: bool) -> None:
    assert ("missing_stop" in rules("Tell me.", answer)) is found


@pytest.mark.parametrize(
    ("answer", "found"),
    [
        ("I am ChatGPT.", True),
        ("I'm Claude, made by Anthropic.", True),
        ("As an AI language model developed by OpenAI, I cannot do that.", True),
        ("I was trained by Google.", True),
        ("My name is Qwen.", True),
        ("No, I am not ChatGPT. I am Pebble.", False),
        ("I was not made by OpenAI.", False),
        ("ChatGPT is a model that was developed by OpenAI.", False),
        ("I am Pebble.", False),
        ("The claude glass was made by painters.", False),
    ],
)
def test_claims_to_be_somebody_else(answer: str, found: bool) -> None:
    assert ("other_identity" in rules("Who are you?", answer)) is found


def test_its_own_name_is_no_claim() -> None:
    assert rules("Who are you?", "I am Claude.", own_name="Claude") == []


def test_empty_turns_open_places_and_control_tokens() -> None:
    messages = (Message("system", " "), Message("user", "Hi"), Message("assistant", "Hello!"))
    assert [f.rule for f in lint(Conversation(messages, "x"))] == ["empty_turn"]
    assert rules("Who are you?", "I am {{name}}.") == ["open_place"]
    assert rules("Hi [INST]", "Hello</s>") == ["control_token", "control_token"]


def test_findings_say_where() -> None:
    [finding] = lint(ask("Who are you?", "I am ChatGPT.", "x"))
    assert (finding.message, finding.excerpt) == (2, "I am ChatGPT")
    assert finding.rule == "other_identity"
