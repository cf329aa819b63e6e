"""OpenAI's own client against the server: what it reads must be what the engine writes."""

from __future__ import annotations

import json
from typing import Any

import openai
import pytest
import torch

from llmpipe.apps.serve.chat import ChatShape
from llmpipe.apps.serve.parse import CHAT_FIELDS, RequestLimits, parse_settings
from llmpipe.assistant.render import Message, PythonCall, Text, ToolOutput, render
from llmpipe.assistant.reply import Reply
from llmpipe.assistant.rules import ReplyRules
from llmpipe.inference.engine import Engine, Token
from llmpipe.inference.sampling import Sampling

QUESTION: list[Any] = [{"role": "user", "content": "Hi <|im_end|> there"}]
GREEDY: dict[str, Any] = {"model": "run-sft", "temperature": 0, "max_tokens": 12}
PYTHON_TOOL: Any = {"type": "function", "function": {"name": "python", "parameters": {}}}


def direct(served: Any, ids: list[int], **settings: Any) -> list[int]:
    """What a fresh engine writes."""
    tokenizer = served.service.tokenizer
    banned = tuple(
        (tokenizer.special[f"<|{t}_start|>"], float("-inf")) for t in ("python", "search")
    )
    sampling = Sampling(**{"temperature": 0.0, "max_tokens": 12, "logit_bias": banned} | settings)
    names = ("im_end", "bos", "im_start", "python_end", "search_end")
    stops = [tokenizer.special[f"<|{name}|>"] for name in names]
    return Engine(served.model).generate([ids], sampling, stops)[0].ids


def test_models_are_listed(served: Any) -> None:
    client = served.client()
    assert [model.id for model in client.models.list()] == ["run-sft"]
    assert client.models.retrieve("run-sft").owned_by == "llmpipe"
    with pytest.raises(openai.NotFoundError) as caught:
        client.models.retrieve("gpt-4")
    assert caught.value.code == "model_not_found"


def test_chat_is_what_the_engine_writes_for_the_rendered_conversation(served: Any) -> None:
    tokenizer = served.service.tokenizer
    ids = render([Message("user", "Hi <|im_end|> there")], tokenizer, True).ids
    expected = direct(served, ids)
    answer = served.client().chat.completions.create(messages=QUESTION, **GREEDY)
    assert answer.choices[0].message.content == tokenizer.decode(expected, show_special=False)
    assert answer.usage is not None
    assert answer.usage.prompt_tokens == len(ids)
    assert answer.usage.total_tokens == len(ids) + answer.usage.completion_tokens


def test_streamed_chat_is_the_whole_answer_in_pieces(served: Any) -> None:
    client = served.client()
    settings = GREEDY | {"temperature": 1.0, "seed": 5, "max_tokens": 60, "n": 2}
    whole = client.chat.completions.create(messages=QUESTION, **settings)
    chunks = list(
        client.chat.completions.create(
            messages=QUESTION, stream=True, stream_options={"include_usage": True}, **settings
        )
    )
    assert chunks[0].choices[0].delta.role == "assistant"
    assert chunks[-1].choices == [] and chunks[-1].usage == whole.usage
    for i in range(2):
        own = [c.choices[0] for c in chunks if c.choices and c.choices[0].index == i]
        text = "".join(choice.delta.content or "" for choice in own)
        assert text == whole.choices[i].message.content
        assert own[-1].finish_reason == whole.choices[i].finish_reason
    assert whole.choices[0].message.content != whole.choices[1].message.content


def test_same_seed_same_answer_whatever_else_runs(served: Any) -> None:
    client = served.client()
    settings = GREEDY | {"temperature": 1.0, "max_tokens": 30}

    def ask(seed: int, n: int = 1) -> list[str | None]:
        answer = client.chat.completions.create(messages=QUESTION, seed=seed, n=n, **settings)
        return [choice.message.content for choice in answer.choices]

    assert ask(7) == ask(7) != ask(8)
    assert ask(7, n=3)[:2] == [*ask(7), *ask(8)]


def test_log_probabilities_are_the_models(served: Any) -> None:
    tokenizer = served.service.tokenizer
    answer = served.client().chat.completions.create(
        messages=QUESTION, logprobs=True, top_logprobs=3, **GREEDY
    )
    entries = answer.choices[0].logprobs.content
    ids = render([Message("user", "Hi <|im_end|> there")], tokenizer, True).ids
    written = direct(served, ids)
    assert len(entries) == len(written)
    with torch.no_grad():
        reference = served.model(torch.tensor([ids + written]))[0].log_softmax(-1)
    for k, (entry, id) in enumerate(zip(entries, written, strict=True)):
        row = reference[len(ids) - 1 + k]
        assert bytes(entry.bytes) == tokenizer.token_bytes(id)
        assert entry.logprob == pytest.approx(row[id].item(), abs=1e-4)
        best = row.topk(3).values.tolist()
        assert [top.logprob for top in entry.top_logprobs] == pytest.approx(best, abs=1e-4)


def test_echo_with_logprobs_scores_a_given_text_as_lm_eval_wants_it(served: Any) -> None:
    """lm-eval's local-completions sends ids with max_tokens 1 and reads all but the last entry."""
    ids = [served.service.tokenizer.bos_id, *served.service.tokenizer.encode("The fox, 42")]
    answer = served.client().completions.create(
        model="run-sft", prompt=ids, max_tokens=1, logprobs=1, echo=True, temperature=0, seed=1
    )
    found = answer.choices[0].logprobs
    with torch.no_grad():
        reference = served.model(torch.tensor([ids]))[0].log_softmax(-1)
    expected = [reference[k, ids[k + 1]].item() for k in range(len(ids) - 1)]
    assert found.token_logprobs[0] is None
    assert found.token_logprobs[1:-1] == pytest.approx(expected, abs=1e-4)
    best = [max(top.values()) for top in found.top_logprobs[1:-1]]
    assert best == pytest.approx(reference.max(-1).values.tolist()[:-1], abs=1e-4)
    assert len(found.tokens) == len(ids) + 1
    assert "".join(found.tokens) == answer.choices[0].text

    text = served.client().completions.create(
        model="run-sft", prompt="The fox, 42", max_tokens=0, logprobs=0, echo=True
    )
    assert text.choices[0].text == "The fox, 42"  # the document mark in front is not shown
    assert text.choices[0].logprobs.token_logprobs == pytest.approx(expected, abs=1e-4)


def test_several_prompts_and_a_stop_string(served: Any) -> None:
    client = served.client()
    free = client.completions.create(prompt=["a", "bc"], n=2, seed=3, **GREEDY | {"temperature": 1})
    assert [choice.index for choice in free.choices] == [0, 1, 2, 3]
    text = free.choices[2].text
    stop = text[3:5]
    stopped = client.completions.create(
        prompt="bc", seed=3, stop=[stop, "\x00never"], **GREEDY | {"temperature": 1}
    )
    assert stopped.choices[0].text == text[: text.index(stop)]
    assert stopped.choices[0].finish_reason == "stop"


def test_logit_bias_and_penalties_reach_the_engine(served: Any) -> None:
    client = served.client()
    x = ord("x")
    forced = client.completions.create(prompt="a", logit_bias={str(x): 100}, **GREEDY)
    assert forced.choices[0].text == "x" * 12
    # A presence penalty of 2 cannot outweigh a bias of 100; a ban can.
    banned = client.completions.create(prompt="a", logit_bias={str(x): -100}, **GREEDY)
    assert "x" not in banned.choices[0].text
    varied = client.completions.create(
        prompt="a", frequency_penalty=2.0, **GREEDY | {"max_tokens": 40}
    )
    plain = client.completions.create(prompt="a", **GREEDY | {"max_tokens": 40})
    assert len(set(varied.choices[0].text)) > len(set(plain.choices[0].text))


def test_tool_result_goes_back_into_the_open_turn(served: Any) -> None:
    tokenizer = served.service.tokenizer
    call = {
        "id": "call_1",
        "type": "function",
        "function": {"name": "python", "arguments": '{"code": "7*7"}'},
    }
    messages: list[Any] = [
        *QUESTION,
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call_1", "content": "49"},
    ]
    answer = served.client().chat.completions.create(messages=messages, **GREEDY)
    parts = [PythonCall("7*7"), ToolOutput("49"), Text("x")]
    whole = [Message("user", "Hi <|im_end|> there"), Message("assistant", parts)]
    ids = render(whole, tokenizer).ids[:-3]  # without x, <|im_end|> and the newline
    expected = tokenizer.decode(direct(served, ids), show_special=False)
    assert answer.choices[0].message.content == expected
    assert answer.usage is not None and answer.usage.prompt_tokens == len(ids)


def test_only_an_offered_tool_can_be_called(served: Any) -> None:
    opening = served.service.tokenizer.special["<|python_start|>"]
    settings: dict[str, Any] = GREEDY | {"max_tokens": 2, "logit_bias": {str(opening): 100}}
    client = served.client()

    def written(**more: Any) -> str | None:
        answer = client.chat.completions.create(messages=QUESTION, **settings, **more)
        return answer.choices[0].message.content

    assert written(tools=[PYTHON_TOOL]) == ""  # two openings of a call, and no text
    assert written() and written(tools=[PYTHON_TOOL], tool_choice="none")


def test_thoughts_calls_and_text_are_told_apart(served: Any) -> None:
    """Token by token: think, answer, call a tool."""
    tokenizer = served.service.tokenizer
    special = tokenizer.special
    ids = [special["<|think_start|>"], *tokenizer.encode("so é"), special["<|think_end|>"]]
    ids += [*tokenizer.encode("ok"), special["<|python_start|>"], *tokenizer.encode("7*7")]
    tokens = [Token(1, id) for id in ids]
    tokens.append(Token(1, special["<|python_end|>"], "stop"))
    reply = Reply(tokenizer, ReplyRules(runs=frozenset(), hands_over=frozenset({"python"})))
    shape = ChatShape([reply], parse_settings({}, CHAT_FIELDS, RequestLimits(), 99, None), False)
    chunks = [chunk for token in tokens for chunk in shape.chunks(0, reply.push(token, 99))]
    whole = shape.choice(0)
    assert whole["finish_reason"] == chunks[-1]["finish_reason"] == "tool_calls"
    assert reply.n_sampled == len(tokens)
    for name, expected in (("reasoning_content", "so é"), ("content", "ok")):
        assert "".join(chunk["delta"].get(name, "") for chunk in chunks) == expected
        assert whole["message"][name] == expected
    (call,) = whole["message"]["tool_calls"]
    assert chunks[-2]["delta"]["tool_calls"] == [{"index": 0, **call}]
    assert call["function"]["name"] == "python"
    assert json.loads(call["function"]["arguments"]) == {"code": "7*7"}


@pytest.mark.parametrize(
    ("settings", "param", "words"),
    [
        ({"n": 0}, "n", "must be 1 to"),
        ({"temperature": -1}, "temperature", "0 or more"),
        ({"top_p": 2}, "top_p", "in \\(0, 1\\]"),
        ({"stop": [""]}, "stop", "characters"),
        ({"logit_bias": {"7": 101}}, "logit_bias", "-100 to 100"),
        ({"response_format": {"type": "json_object"}}, "response_format", "not supported"),
        (
            {"tools": [{"type": "function", "function": {"name": "rm"}}]},
            "tools",
            "python\\(code\\)",
        ),
        ({"messages": []}, "messages", "empty"),
        ({"messages": [{"role": "root", "content": "x"}]}, "messages[0].role", "one of"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0]", "no tool call"),
    ],
)
def test_refusal_names_the_field(served: Any, settings: Any, param: str, words: str) -> None:
    with pytest.raises(openai.BadRequestError, match=words) as caught:
        served.client().chat.completions.create(**{"messages": QUESTION} | GREEDY | settings)
    assert caught.value.param == param


def test_too_long_prompt_has_its_code(served: Any) -> None:
    with pytest.raises(openai.BadRequestError, match="context holds 400") as caught:
        served.client().completions.create(prompt="x" * 400, **GREEDY)
    assert caught.value.code == "context_length_exceeded"
