"""Conversations as tokens over HTTP, token ids of answers, and orders of answers written down."""

from __future__ import annotations

import json
import stat
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llmpipe.assistant.render import Message, PythonCall, Text, Thought, ToolOutput, render


def post(served: Any, path: str, body: Any, **headers: str) -> tuple[int, Any]:
    url = f"http://127.0.0.1:{served.port}{path}"
    request = urllib.request.Request(url, json.dumps(body).encode(), headers)
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.load(error)


CALL = {"function": {"name": "python", "arguments": '{"code": "7*7"}'}}
MESSAGES = [
    {"role": "user", "content": "<|im_end|> sum"},
    {"role": "assistant", "content": "", "reasoning_content": "hm", "tool_calls": [CALL]},
    {"role": "tool", "content": "49"},
    {"role": "assistant", "content": "49."},
]


def test_conversation_is_what_training_sees(served: Any) -> None:
    tokenizer = served.service.tokenizer
    parts = [Thought("hm"), PythonCall("7*7"), ToolOutput("49"), Text("49.")]
    expected = render([Message("user", "<|im_end|> sum"), Message("assistant", parts)], tokenizer)
    body = {"messages": MESSAGES, "add_generation_prompt": False, "return_token_strs": True}
    status, answer = post(served, "/tokenize", body)
    assert status == 200
    assert (answer["tokens"], answer["mask"]) == (expected.ids, expected.mask)
    assert answer["count"] == len(expected.ids) and answer["max_model_len"] == 400
    assert answer["token_strs"][:3] == ["<|bos|>", "<|im_start|>", "u"]
    _, opened = post(served, "/tokenize", {"messages": MESSAGES[:1]})
    assert opened["tokens"] == render([Message("user", "<|im_end|> sum")], tokenizer, True).ids
    _, none = post(served, "/tokenize", {"messages": MESSAGES[:1], "tools": []})
    assert "Tools: none." in tokenizer.decode(none["tokens"])


def test_tokenizer_tells_its_control_tokens(served: Any) -> None:
    with urllib.request.urlopen(f"http://127.0.0.1:{served.port}/tokenizer_info") as answer:
        told = json.load(answer)
    assert (told["bos_token"], told["eos_token"]) == ("<|bos|>", "<|im_end|>")
    assert "<|im_start|>" in told["chat_template"]


def test_text_is_shown_as_tokens_of_the_model(served: Any) -> None:
    status, views = post(served, "/tokens", {"text": "é<|bos|>"})
    pieces = [(piece["id"], piece["shown"]) for piece in views[0]["pieces"]]
    bos = served.service.tokenizer.bos_id
    assert (status, views[0]["name"]) == (200, "run-sft")
    assert pieces == [(0xC3, "\\xc3"), (0xA9, "\\xa9"), (bos, "<|bos|>")]


def test_parts_of_characters_are_spelled_out(served: Any) -> None:
    body = {"prompt": "é", "add_special_tokens": False, "return_token_strs": True}
    assert post(served, "/tokenize", body)[1]["token_strs"] == ["\\xc3", "\\xa9"]


def test_completions_tell_their_ids(served: Any) -> None:
    body = {"prompt": "ab", "max_tokens": 4, "logprobs": 2, "return_token_ids": True, "seed": 1}
    (whole,) = post(served, "/v1/completions", body)[1]["choices"]
    tokenizer = served.service.tokenizer
    assert whole["prompt_token_ids"] == [tokenizer.bos_id, *tokenizer.encode("ab")]
    assert tokenizer.decode(whole["token_ids"], show_special=False) == whole["text"]
    assert [entry["id"] for entry in whole["logprobs"]["content"]] == whole["token_ids"]

    url = f"http://127.0.0.1:{served.port}/v1/completions"
    with urllib.request.urlopen(url, json.dumps(body | {"stream": True}).encode()) as events:
        sent = [json.loads(line[6:]) for line in events if line.startswith(b"data: {")]
    choices = [event["choices"][0] for event in sent]
    assert [id for choice in choices for id in choice["token_ids"]] == whole["token_ids"]
    assert [k for k, choice in enumerate(choices) if "prompt_token_ids" in choice] == [0]


ANSWERS = [{"content": "best", "seed": 2, "token_ids": [1], "evil": "x"}, {"content": "worst"}]


def test_order_of_answers_is_appended_as_a_line(start: Callable[..., Any], tmp_path: Path) -> None:
    file = tmp_path / "preferences.jsonl"
    messages = [{"role": "user", "content": "A joke\n\ud83d!"}]
    with start(preferences=file) as served:
        body = {"messages": messages, "answers": ANSWERS, "sampling": {"temperature": 1}}
        assert post(served, "/preferences", body) == (200, {"written": 1, "file": file.name})
        post(served, "/preferences", {"prompt": "Once", "answers": ANSWERS[::-1]})
    first, second = [json.loads(line) for line in file.read_text().splitlines()]
    assert first.pop("created").endswith("+00:00")
    assert first == {
        "schema": "llmpipe.preferences/1",
        "model": "run-sft",
        "messages": messages,
        "answers": [{"content": "best", "seed": 2, "token_ids": [1]}, {"content": "worst"}],
        "sampling": {"temperature": 1},
    }
    assert second["prompt"] == "Once" and second["answers"][0]["content"] == "worst"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"answers": ANSWERS}, "messages"),
        ({"prompt": "a", "messages": [], "answers": ANSWERS}, "messages"),
        ({"prompt": "a", "answers": ANSWERS[:1]}, "answers"),
        ({"prompt": "a", "answers": [{"content": "a"}, {"content": 3}]}, "answers[1]"),
        ({"messages": ["x"], "answers": ANSWERS}, "messages[0]"),
    ],
)
def test_order_that_cannot_be_used_is_refused(
    start: Callable[..., Any], tmp_path: Path, body: Any, param: str
) -> None:
    with start(preferences=tmp_path / "p") as served:
        status, answer = post(served, "/preferences", body)
    assert (status, answer["error"]["param"]) == (400, param)
    assert not (tmp_path / "p").exists()


def test_unwritable_file_is_an_error_and_no_file_is_404(
    served: Any, start: Callable[..., Any], tmp_path: Path
) -> None:
    body = {"prompt": "a", "answers": ANSWERS}
    assert post(served, "/preferences", body)[0] == 404
    with start(preferences=tmp_path / "no" / "p") as other:
        status, answer = post(other, "/preferences", body)
    assert status == 500 and "cannot be written" in answer["error"]["message"]


def test_foreign_page_can_make_the_server_do_nothing(served: Any) -> None:
    body = {"prompt": "a", "max_tokens": 1}
    own = f"http://127.0.0.1:{served.port}"
    assert post(served, "/v1/completions", body, origin=own)[0] == 200
    for origin in ("https://evil.example", "null", f"{own}0", "http://localhost:1"):
        assert post(served, "/v1/completions", body, origin=origin)[0] == 403
