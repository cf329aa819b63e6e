from __future__ import annotations

from collections.abc import Sequence

import pytest

from llmpipe.assistant.render import Message, PythonCall, Text, ToolOutput, part_ids
from llmpipe.assistant.reply import Reply
from llmpipe.core.errors import UserError
from llmpipe.inference.engine import Token
from llmpipe.stages.eval.report import lay_out
from llmpipe.tasks.arithmetic import ARITHMETIC
from llmpipe.tasks.base import Example
from llmpipe.tasks.judging import hold_conversation, judgeable, n_prompt_tokens, run_task
from llmpipe.tokenizer.bpe import Tokenizer
from llmpipe.tokenizer.patterns import split_pattern
from llmpipe.tokenizer.special import BOS, IM_END, place_special


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    """Every byte is a token; then the special ones."""
    ranks = {bytes([i]): i for i in range(256)}
    return Tokenizer(ranks, split_pattern("qwen2"), place_special(256))


class Scripted:
    """Stands for an assistant: says what is written down, and notes what it was asked."""

    def __init__(self, tokenizer: Tokenizer, messages: Sequence[Message], max_len: int) -> None:
        self.tokenizer = tokenizer
        self.messages = list(messages)
        self.asked: list[list[Message]] = []
        self.engine = type("Engine", (), {"max_len": max_len})
        self.sampling = type("Sampling", (), {"max_tokens": 20})

    def answer(self, conversations: Sequence[Sequence[Message]]) -> list[Reply]:
        self.asked += [list(messages) for messages in conversations]
        return [written(self.tokenizer, self.messages.pop(0), IM_END) for _ in conversations]


def written(tokenizer: Tokenizer, message: Message, end: str | None) -> Reply:
    """Return the reply whose ids are those of a message, ended by a token or by their number."""
    reply = Reply(tokenizer)
    ids = [id for part in message.parts for id in part_ids(part, tokenizer)]
    reply.begin(ids if end else ids[:-1])
    last = Token(1, tokenizer.special[end], "stop") if end else Token(1, ids[-1], "length")
    reply.push(last, 0)
    return reply


def sum_message(call: str, output: str, text: str) -> Message:
    return Message("assistant", (PythonCall(call), ToolOutput(output), Text(text)))


@pytest.mark.parametrize(("last", "stopped"), [(IM_END, True), (BOS, False), (None, False)])
def test_only_the_end_of_a_turn_counts_as_stopping(
    tokenizer: Tokenizer, last: str | None, stopped: bool
) -> None:
    answer = judgeable(written(tokenizer, Message("assistant", "A"), last))
    assert (answer.text, answer.stopped) == ("A", stopped)


def test_calls_are_kept_apart_from_words(tokenizer: Tokenizer) -> None:
    answer = judgeable(written(tokenizer, sum_message("1+1", "2", "1 + 1 is 2."), IM_END))
    assert (answer.text, answer.tool_calls) == ("1 + 1 is 2.", ("1+1",))


def test_a_task_without_questions_is_an_error(tokenizer: Tokenizer) -> None:
    with pytest.raises(UserError, match="`arithmetic` has no questions"):
        run_task(ARITHMETIC, [], Scripted(tokenizer, [], 100))


def test_scores_and_records_of_a_task(tokenizer: Tokenizer) -> None:
    examples = [Example("What is 1 + 1?", "2"), Example("What is 2 + 2?", "4")]
    assistant = Scripted(
        tokenizer, [sum_message("1+1", "2", "It is 2."), Message("assistant", "4")], 100
    )
    numbers, records = run_task(ARITHMETIC, examples, assistant)
    assert (numbers["n"], numbers["correct"], numbers["accuracy"]) == (2, 1, 0.5)
    assert numbers["low"] < 0.5 < numbers["high"]
    assert [record["right"] for record in records] == [True, False]
    assert records[1]["tool_calls"] == []


def test_a_conversation_goes_on_and_forgets_the_oldest_turn_when_it_is_full(
    tokenizer: Tokenizer,
) -> None:
    answers = [Message("assistant", text) for text in ("one", "two", "three")]
    assistant = Scripted(tokenizer, answers, max_len=100)
    turns = hold_conversation(["first", "second", "third"], assistant)
    assert [turn["answer"] for turn in turns] == ["one", "two", "three"]
    assert [[m.text for m in asked] for asked in assistant.asked] == [
        ["first"],
        ["first", "one", "second"],
        ["second", "two", "third"],
    ]
    assert all(n_prompt_tokens(asked, tokenizer) <= 80 for asked in assistant.asked)


def test_transcript_shows_tool_calls_between_question_and_answer() -> None:
    turns = [{"question": "1+1?", "answer": "2", "tool_calls": ["1+1"]}]
    assert lay_out(turns) == [("user", "1+1?"), ("tool", "1+1"), ("assistant", "2")]
