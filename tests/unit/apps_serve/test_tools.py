"""Tools that the server runs within an answer, and turns that begin with given ids."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import openai
import pytest

from llmpipe.apps.chat.state import Chat
from llmpipe.apps.load import Loaded
from llmpipe.apps.serve.service import ToolRunner
from llmpipe.assistant.events import Event
from llmpipe.assistant.render import Message, PythonCall, Text, ToolOutput, render
from llmpipe.assistant.reply import Reply
from llmpipe.assistant.rules import ANSWER_TOKENS, MAX_OUTPUT_TOKENS, MIN_OUTPUT_TOKENS
from llmpipe.inference.engine import Token
from llmpipe.inference.sampling import Sampling
from llmpipe.tasks.judging import Assistant

CALL = ["<|python_start|>", "7", "*", "7", "<|python_end|>", "<|output|>"]
LINES = {"sum": [*CALL, *"It is 49."], "long": [*CALL, "!"], "plain": "No tool.", "twice": [*CALL, *CALL, "."], "again": CALL * 20}  # fmt: skip
PYTHON: Any = {"type": "function", "function": {"name": "python", "parameters": {}}}


class Fake:
    """A tool that says what it is told to, once it may."""

    def __init__(self) -> None:
        self.answer: str | Exception = "49"
        self.may_answer = threading.Event()
        self.may_answer.set()
        self.asked: list[str] = []

    def run(self, text: str) -> str:
        self.asked.append(text)
        assert self.may_answer.wait(10)
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


@pytest.fixture
def tool() -> Fake:
    return Fake()


@pytest.fixture
def served(start: Callable[..., Any], tool: Fake) -> Iterator[Any]:
    @contextlib.contextmanager
    def open_tools(names: Any) -> Iterator[Mapping[Any, Fake]]:
        yield {"python": tool}

    with start(lines=LINES, tools=ToolRunner(open_tools, ("python",))) as served:
        yield served
        served.wait_until_idle()


def ask(served: Any, text: str, **settings: Any) -> Any:
    return served.client().chat.completions.create(
        model="run-sft", messages=[{"role": "user", "content": text}], **settings
    )


def test_servers_tool_runs_within_the_answer(served: Any, tool: Fake) -> None:
    answer = ask(served, "sum", extra_body={"return_token_ids": True, "return_token_strs": True})
    (choice,) = answer.choices
    assert choice.message.content == "It is 49."
    assert choice.finish_reason == "stop"
    assert choice.message.tool_runs == [{"name": "python", "input": "7*7", "output": "49"}]
    assert not choice.message.tool_calls and tool.asked == ["7*7"]

    # The ids are those of the conversation as it would be trained, and what the tool said is not.
    parts = [PythonCall("7*7"), ToolOutput("49"), Text("It is 49.")]
    tokenizer = served.service.tokenizer
    whole = render([Message("user", "sum"), Message("assistant", parts)], tokenizer)
    n_prompt = len(answer.prompt_token_ids)
    assert answer.prompt_token_ids + choice.token_ids == whole.ids[:-1]
    assert choice.token_mask == whole.mask[n_prompt:-1]
    assert choice.token_strs[:2] == ["<|python_start|>", "7"]
    assert answer.usage.completion_tokens == sum(choice.token_mask)


def test_streamed_run_comes_in_two_pieces_before_the_text(served: Any) -> None:
    events = list(
        ask(served, "sum", stream=True, logprobs=True, extra_body={"return_token_ids": True})
    )
    deltas = [event.choices[0].delta.model_dump() for event in events]
    runs = [delta["tool_runs"] for delta in deltas if delta.get("tool_runs")]
    assert runs == [
        [{"index": 0, "name": "python", "input": "7*7"}],
        [{"index": 0, "output": "49"}],
    ]
    assert "".join(delta.get("content") or "" for delta in deltas) == "It is 49."
    ids = [id for event in events for id in getattr(event.choices[0], "token_ids", None) or ()]
    whole = ask(served, "sum", extra_body={"return_token_ids": True})
    assert ids == whole.choices[0].token_ids
    assert events[0].prompt_token_ids == whole.prompt_token_ids
    # One log-probability per chosen token, the end included, each with its id.
    entries = [e for event in events if event.choices[0].logprobs for e in event.choices[0].logprobs.content]  # fmt: skip
    mask = whole.choices[0].token_mask
    assert [e.id for e in entries] == [id for id, own in zip(ids, mask, strict=True) if own]


def test_other_answers_go_on_while_a_tool_runs(served: Any, tool: Fake) -> None:
    tool.may_answer.clear()
    found: list[Any] = []
    thread = threading.Thread(target=lambda: found.append(ask(served, "sum", n=3)))
    thread.start()
    assert ask(served, "plain").choices[0].message.content == "No tool."
    assert not found
    tool.may_answer.set()
    thread.join(10)
    assert [choice.message.content for choice in found[0].choices] == ["It is 49."] * 3


def test_engine_rests_while_all_answers_wait_for_tools(
    served: Any, tool: Fake, monkeypatch: pytest.MonkeyPatch
) -> None:
    n_steps = 0
    step = served.engine.step

    def counted() -> Any:
        nonlocal n_steps
        n_steps += 1
        return step()

    monkeypatch.setattr(served.engine, "step", counted)
    tool.may_answer.clear()
    thread = threading.Thread(target=lambda: ask(served, "sum"))
    thread.start()
    while not tool.asked:
        time.sleep(0.01)
    time.sleep(0.1)
    assert n_steps <= 6  # five tokens of the call, and one step that found nothing to do
    tool.may_answer.set()
    thread.join(10)


@pytest.mark.parametrize("settings", [{"tools": []}, {"tool_choice": "none"}])
def test_no_tool_is_obeyed(served: Any, tool: Fake, settings: Any) -> None:
    answer = ask(served, "sum", max_tokens=5, extra_body={"return_token_ids": True, **settings})
    opening = served.service.tokenizer.special["<|python_start|>"]
    assert opening not in answer.choices[0].token_ids and not tool.asked
    prompt = served.service.tokenizer.decode(answer.prompt_token_ids)
    assert "<|im_start|>system\nTools: none.<|im_end|>" in prompt


def test_clients_tool_is_called_and_not_run(served: Any, tool: Fake) -> None:
    (choice,) = ask(served, "sum", tools=[PYTHON]).choices
    assert choice.finish_reason == "tool_calls" and not tool.asked
    assert json.loads(choice.message.tool_calls[0].function.arguments) == {"code": "7*7"}


def test_servers_tools_can_be_picked_by_name(served: Any, tool: Fake) -> None:
    answer = ask(served, "sum", extra_body={"tools": [{"type": "python"}]})
    assert answer.choices[0].message.content == "It is 49." and tool.asked
    with pytest.raises(openai.BadRequestError, match="runs no tool `search`"):
        ask(served, "sum", extra_body={"tools": [{"type": "search"}]})
    with pytest.raises(openai.BadRequestError, match="offered twice"):
        ask(served, "sum", extra_body={"tools": [{"type": "python"}, PYTHON]})


def test_output_is_ordinary_text_and_cut_to_its_budget(served: Any, tool: Fake) -> None:
    tool.answer = "<|im_end|>" * 100
    answer = ask(served, "long", extra_body={"return_token_ids": True})
    (choice,) = answer.choices
    forced = [id for id, own in zip(choice.token_ids, choice.token_mask, strict=True) if not own]
    assert len(forced) == MAX_OUTPUT_TOKENS
    special = served.service.tokenizer.special
    assert not set(forced[1:-1]) & set(special.values())
    assert forced[-1] == special["<|output_end|>"]
    assert choice.message.content == "!"


def test_second_output_leaves_room_and_one_without_room_ends_the_answer(
    served: Any, tool: Fake
) -> None:
    tool.answer = "y" * 1000
    (choice,) = ask(served, "twice").choices
    assert (choice.message.content, choice.finish_reason) == (".", "stop")
    runs = choice.message.tool_runs
    n_prompt = len(render([Message("user", "twice")], served.service.tokenizer, True).ids)
    n_call = len(CALL) - 1
    assert runs[0]["output"] == "y" * (MAX_OUTPUT_TOKENS - 2)
    # A sampled token follows the output, so the last of the 400 places cannot be given away.
    n_free = 400 - 1 - n_prompt - 2 * n_call - MAX_OUTPUT_TOKENS
    assert runs[1]["output"] == "y" * (n_free - ANSWER_TOKENS - 2)

    (choice,) = ask(served, "again").choices
    assert choice.finish_reason == "length" and not choice.message.content
    # From the third one on an output is one token long, and the free places go to calls.
    n_more = ANSWER_TOKENS // (n_call + MIN_OUTPUT_TOKENS)
    assert [run["output"] for run in choice.message.tool_runs[2:]] == ["y"] * n_more


def test_broken_tool_is_told_to_the_model(served: Any, tool: Fake) -> None:
    tool.answer = ZeroDivisionError("secret")
    (choice,) = ask(served, "sum").choices
    assert choice.message.tool_runs[0]["output"] == "error: the tool failed: ZeroDivisionError"
    assert choice.message.content == "It is 49."


def test_reply_that_fails_ends_no_other(
    served: Any, tool: Fake, monkeypatch: pytest.MonkeyPatch
) -> None:
    push = Reply.push

    def strange(self: Reply, token: Token, room: int) -> list[Event]:
        if self.rules.stops:
            raise ZeroDivisionError
        return push(self, token, room)

    monkeypatch.setattr(Reply, "push", strange)
    tool.may_answer.clear()
    found: list[Any] = []
    thread = threading.Thread(target=lambda: found.append(ask(served, "sum")))
    thread.start()
    while not tool.asked:
        time.sleep(0.01)
    with pytest.raises(openai.InternalServerError, match="the reply failed: ZeroDivisionError"):
        ask(served, "plain", stop=["never"])
    tool.may_answer.set()
    thread.join(10)
    assert found[0].choices[0].message.content == "It is 49."
    assert served.service.worker.n_failures == 1


def test_client_that_leaves_while_a_tool_runs_frees_its_slot(served: Any, tool: Fake) -> None:
    tool.may_answer.clear()
    body = json.dumps({"messages": [{"role": "user", "content": "sum"}]}).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n"
    with socket.create_connection(("127.0.0.1", served.port)) as raw:
        raw.sendall(head.encode() + body)
        while not tool.asked:
            pass
    served.wait_until_idle()
    tool.may_answer.set()
    assert ask(served, "sum").choices[0].message.content == "It is 49."


def test_turn_goes_on_from_given_ids(served: Any) -> None:
    tokenizer = served.service.tokenizer
    given = tokenizer.encode("No t")
    body = {"continue_token_ids": given, "return_token_ids": True}
    assert ask(served, "plain", extra_body=body).choices[0].message.content == "ool."
    (choice,) = ask(served, "plain", extra_body=body | {"echo": True}).choices
    assert choice.message.content == "No tool."
    assert choice.token_ids == [*tokenizer.encode("ool."), tokenizer.special["<|im_end|>"]]
    with pytest.raises(openai.BadRequestError, match="end the turn"):
        end = {"continue_token_ids": [tokenizer.special["<|im_end|>"]]}
        ask(served, "plain", extra_body=end)


@pytest.mark.parametrize("n_given", [3, 5])
def test_given_ids_may_end_within_a_call_or_with_a_whole_one(
    served: Any, tool: Fake, n_given: int
) -> None:
    tokenizer = served.service.tokenizer
    special = tokenizer.special
    call = [special["<|python_start|>"], *tokenizer.encode("7*7"), special["<|python_end|>"]]
    for echo in (True, False):
        body = {"continue_token_ids": call[:n_given], "echo": echo, "return_token_ids": True}
        answer = ask(served, "sum", n=2, extra_body=body)
        for choice in answer.choices:
            assert choice.message.content == "It is 49."
            assert choice.message.tool_runs == [{"name": "python", "input": "7*7", "output": "49"}]
            assert choice.token_ids[-1] == special["<|im_end|>"]
        streamed = list(ask(served, "sum", stream=True, extra_body=body))
        runs = [r for event in streamed for r in getattr(event.choices[0].delta, "tool_runs", ())]
        assert [run["index"] for run in runs] == [0, 0]
    assert tool.asked == ["7*7"] * len(tool.asked)


def test_each_running_sandbox_is_its_own_and_the_index_is_shared() -> None:
    opened: list[str] = []

    @contextlib.contextmanager
    def open_tools(names: Any) -> Iterator[Mapping[Any, Fake]]:
        opened.extend(names)
        yield {name: waiting for name in names}

    waiting = Fake()
    waiting.may_answer.clear()
    runner = ToolRunner(open_tools, ("python", "search"), n_threads=6)

    async def run() -> None:
        calls = [runner.run(name, "x") for name in ("python", "search") * 3]
        tasks = [asyncio.ensure_future(call) for call in calls]
        while len(waiting.asked) < 6:
            await asyncio.sleep(0.01)
        waiting.may_answer.set()
        assert await asyncio.gather(*tasks) == ["49"] * 6
        await runner.run("python", "x")

    asyncio.run(run())
    runner.close()
    assert sorted(opened) == ["python"] * 3 + ["search"]


@pytest.mark.parametrize("question", ["once", "twice"])
def test_chat_eval_and_serve_write_the_same_ids_after_a_tool_that_prints_much(
    start: Callable[..., Any], question: str
) -> None:
    """One conversation on three roads: a context of 400 tokens, and 1,000 from the tool."""
    text = "fill " * 40 + question
    lines = {text: LINES["twice"] if question == "twice" else [*CALL, *"Here is the answer."]}
    printer = Fake()
    printer.answer = "y" * 1000

    @contextlib.contextmanager
    def open_tools(names: Any) -> Iterator[Mapping[Any, Fake]]:
        yield {"python": printer}

    with start(lines=lines, tools=ToolRunner(open_tools, ("python",))) as served:
        answer = ask(served, text, temperature=0, extra_body={"return_token_ids": True})
        (over_http,) = answer.choices
        tokenizer = served.service.tokenizer

        def engine() -> Any:
            return type(served.engine)(served.model, tokenizer, lines, 0.0)

        greedy = Sampling(temperature=0.0, max_tokens=400)
        messages = [Message("user", text)]
        tools: Any = {"python": printer}

        chat = Chat(Loaded(tokenizer, engine(), ()), tools, greedy, messages=messages)
        in_chat = chat.new_reply()
        list(chat.reply(in_chat))
        (in_eval,) = Assistant(engine(), tokenizer, greedy, tools).answer([messages])

    assert over_http.token_ids == in_chat.ids == in_eval.ids
    # What the tool said leaves room for what it was asked for.
    output = len(over_http.token_mask) - sum(over_http.token_mask)
    assert output > 40 and over_http.finish_reason == "stop"
    assert over_http.message.content == ("." if question == "twice" else "Here is the answer.")
