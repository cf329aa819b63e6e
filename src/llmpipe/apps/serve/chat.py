"""POST /v1/chat/completions."""

from __future__ import annotations

import secrets
import time
from dataclasses import replace
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from llmpipe.apps.serve.choice import TOOL_ARGUMENTS, TOOL_OPENINGS, Choice, Piece, chat_logprobs
from llmpipe.apps.serve.conversation import prompt_ids
from llmpipe.apps.serve.errors import ApiError
from llmpipe.apps.serve.parse import (
    CHAT_FIELDS,
    answer_tokens,
    field,
    parse_common,
    parse_json,
    refuse,
)
from llmpipe.apps.serve.service import Answer, Service
from llmpipe.apps.serve.worker import Task
from llmpipe.tokenizer.special import IM_END, IM_START, PYTHON_END, SEARCH_END


async def chat_completions(service: Service, request: Request) -> Response:
    """Answer a conversation."""
    body = parse_json(await service.read_body(request))
    service.check_model(body.get("model"))
    refuse(body, "response_format", {"type": "text"})
    tokenizer = service.tokenizer
    if not {IM_START, IM_END} <= tokenizer.special.keys():
        raise ApiError(400, "this model cannot chat; use /v1/completions", "unsupported_value")
    messages = field(body, "messages", list, [])
    if not messages:
        raise ApiError(400, "`messages` is empty", param="messages")
    ids = prompt_ids(
        messages,
        tokenizer,
        field(body, "continue_final_message", bool, False),
        field(body, "add_generation_prompt", bool, True),
    )
    service.check_prompt(ids, "messages")

    wants_logprobs = field(body, "logprobs", bool, False)
    n_top = field(body, "top_logprobs", int, 0)
    n_room = service.worker.engine.max_len
    max_tokens = answer_tokens(body, n_room, "max_completion_tokens", "max_tokens")
    common = parse_common(
        body, CHAT_FIELDS, service.limits, max(max_tokens, 1), n_top if wants_logprobs else None
    )
    # A tool that was not offered must not be called: its opening token gets no probability.
    offered = _offered_tools(body)
    forbidden = tuple(
        (tokenizer.special[name], float("-inf"))
        for name, tool in TOOL_OPENINGS.items()
        if tool not in offered and name in tokenizer.special
    )
    samplings = [replace(own, logit_bias=(*own.logit_bias, *forbidden)) for own in common.samplings]
    ends = (IM_END, IM_START, PYTHON_END, SEARCH_END)
    stop_ids = {*service.stop_ids, *(tokenizer.special[e] for e in ends if e in tokenizer.special)}
    answer = Answer(
        service,
        "chat",
        common,
        [Task(ids, samplings, tuple(stop_ids))],
        [Choice(tokenizer, common.stops, has_parts=True) for _ in samplings],
    )
    head = {
        "id": f"chatcmpl-{secrets.token_hex(12)}",
        "object": "chat.completion.chunk" if common.stream else "chat.completion",
        "created": int(time.time()),
        "model": service.model,
    }
    begun: set[int] = set()

    def chunks(answer: Answer, i: int, piece: Piece) -> list[dict[str, Any]]:
        return _chunks(answer, i, piece, begun, wants_logprobs)

    return await answer.respond(request, head, lambda a: _whole(a, wants_logprobs), chunks)


def _offered_tools(body: dict[str, Any]) -> set[str]:
    """Return the names of the tools that the model may call."""
    offered = set()
    for tool in field(body, "tools", list, []):
        function = tool.get("function") if isinstance(tool, dict) else None
        name = function.get("name") if isinstance(function, dict) else None
        if not isinstance(name, str) or name not in TOOL_ARGUMENTS:
            known = ", ".join(f"{tool}({key})" for tool, key in TOOL_ARGUMENTS.items())
            message = f"this model was trained to call {known} and nothing else"
            raise ApiError(400, message, "unsupported_value", "tools")
        offered.add(name)
    choice = body.get("tool_choice")
    if choice == "none":
        return set()
    if choice not in (None, "auto"):
        message = "`tool_choice` can be `auto` or `none`"
        raise ApiError(400, message, "unsupported_value", "tool_choice")
    return offered


def _whole(answer: Answer, wants_logprobs: bool) -> list[dict[str, Any]]:
    choices = []
    for i, choice in enumerate(answer.choices):
        whole = choice.whole
        message: dict[str, Any] = {"role": "assistant", "content": whole.text, "refusal": None}
        if whole.reasoning:
            message["reasoning_content"] = whole.reasoning
        if whole.tool_calls:
            message |= {"tool_calls": whole.tool_calls, "content": whole.text or None}
        logprobs = chat_logprobs(whole.logprobs, answer.service.tokenizer)
        choices.append(
            {
                "index": i,
                "message": message,
                "logprobs": logprobs if wants_logprobs else None,
                "finish_reason": choice.finish_reason,
            }
        )
    return choices


def _chunks(
    answer: Answer, i: int, piece: Piece, begun: set[int], wants_logprobs: bool
) -> list[dict[str, Any]]:
    """Return the events of one piece: the role first, what was written, and the end by itself."""

    def chunk(delta: dict[str, Any], reason: str | None = None) -> dict[str, Any]:
        return {"index": i, "delta": delta, "logprobs": None, "finish_reason": reason}

    found = []
    if i not in begun:
        begun.add(i)
        found.append(chunk({"role": "assistant", "content": ""}))
    choice = answer.choices[i]
    if piece:
        delta: dict[str, Any] = {}
        if piece.text or piece.logprobs:
            delta["content"] = piece.text
        if piece.reasoning:
            delta["reasoning_content"] = piece.reasoning
        if piece.tool_calls:
            n_before = len(choice.whole.tool_calls) - len(piece.tool_calls)
            delta["tool_calls"] = [
                {"index": n_before + k, **call} for k, call in enumerate(piece.tool_calls)
            ]
        found.append(chunk(delta))
        if wants_logprobs:
            found[-1]["logprobs"] = chat_logprobs(piece.logprobs, answer.service.tokenizer)
    if choice.finish_reason:
        found.append(chunk({}, choice.finish_reason))
    return found
