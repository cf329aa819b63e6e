"""POST /v1/chat/completions."""

from __future__ import annotations

import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from llmpipe.apps.serve.choice import Choice, Piece
from llmpipe.apps.serve.conversation import render_request
from llmpipe.apps.serve.errors import ApiError
from llmpipe.apps.serve.logprobs import chat_logprobs, token_fields
from llmpipe.apps.serve.offered import Offered
from llmpipe.apps.serve.parse import (
    CHAT_FIELDS,
    answer_tokens,
    parse_common,
    parse_json,
    refuse,
    token_ids,
)
from llmpipe.apps.serve.parse import field as body_field
from llmpipe.apps.serve.service import Answer, Service
from llmpipe.apps.serve.worker import MIN_FORCED, Task
from llmpipe.assistant.frames import stop_ids
from llmpipe.assistant.reply import TOOL_CLOSINGS, TOOL_OPENINGS
from llmpipe.inference.sampling import Sampling


async def chat_completions(service: Service, request: Request) -> Response:
    """Answer a conversation."""
    body = parse_json(await service.read_body(request))
    service.check_model(body.get("model"))
    refuse(body, "response_format", {"type": "text"}, why=_NO_FORMAT)
    tokenizer = service.tokenizer
    rendered, offered = render_request(body, tokenizer, service.tool_names)
    ids = rendered.ids
    service.check_prompt(ids, "messages")
    wants_logprobs = body_field(body, "logprobs", bool, False)
    n_top = body_field(body, "top_logprobs", int, 0)
    n_room = service.worker.engine.max_len
    max_tokens = answer_tokens(body, n_room, "max_completion_tokens", "max_tokens")
    common = parse_common(
        body, CHAT_FIELDS, service.limits, max(max_tokens, 1), n_top if wants_logprobs else None
    )
    choices = [
        Choice(tokenizer, common.stops, True, offered.by_server, common.wants_ids)
        for _ in common.samplings
    ]
    ids += await _begun(service, body, choices, n_room - 1 - len(ids))
    service.check_prompt(ids, "messages")

    task = _task(service, ids, common.samplings, offered)
    answer = Answer(service, "chat", common, [task], choices)
    head = {
        "id": f"chatcmpl-{secrets.token_hex(12)}",
        "object": "chat.completion.chunk" if common.stream else "chat.completion",
        "created": int(time.time()),
        "model": service.model,
    }
    shape = _Shape(wants_logprobs)
    prompt = token_fields(common, "prompt_", ids, tokenizer)
    return await answer.respond(request, head, shape.whole, shape.chunks, prompt)


_NO_FORMAT = "answers are text: this server does not force them into JSON or a schema"


async def _begun(
    service: Service, body: dict[str, Any], choices: Sequence[Choice], room: int
) -> list[int]:
    """Return what the assistant's turn begins with, and tell it to the choices.

    A turn that ends with a call to one of the server's tools gets the tool's output here: nothing
    will be sampled that could pause for it.
    """
    ids = token_ids(body, "continue_token_ids", service.tokenizer.vocab_size)
    if set(ids) & {*service.stop_ids, *stop_ids(service.tokenizer)}:
        raise ApiError(400, "these ids end the turn", param="continue_token_ids")
    echo = body_field(body, "echo", bool, False)
    for choice in choices:
        choice.begin(ids, echo)
    if call := choices[0].waits_for:
        output = await service.run_tool(*call)
        room -= len(ids)
        if room < MIN_FORCED:
            raise ApiError(400, "no room for the tool's output", "context_length_exceeded")
        output = output if len(output) <= room else [*output[: room - 1], output[-1]]
        for choice in choices:
            choice.given.append(choice.push_output(output))
        ids = [*ids, *output]
    return ids


def _task(
    service: Service, ids: list[int], samplings: Sequence[Sampling], offered: Offered
) -> Task:
    """Return the work for the engine: what may be written, where it ends, where it waits."""
    special = service.tokenizer.special
    # A tool that may not be called gets no probability for its opening token.
    forbidden = tuple(
        (special[name], float("-inf"))
        for name, tool in TOOL_OPENINGS.items()
        if tool not in offered.all and name in special
    )
    pauses = [name for name, tool in TOOL_CLOSINGS.items() if tool in offered.by_server]
    stops = [special[name] for name in TOOL_CLOSINGS if name not in pauses and name in special]
    return Task(
        ids,
        [replace(own, logit_bias=(*own.logit_bias, *forbidden)) for own in samplings],
        stop_ids=tuple({*service.stop_ids, *stop_ids(service.tokenizer), *stops}),
        pause_ids=tuple(special[name] for name in pauses if name in special),
    )


@dataclass
class _Shape:
    """How an answer is written down."""

    wants_logprobs: bool
    begun: set[int] = field(default_factory=set)

    def whole(self, answer: Answer) -> list[dict[str, Any]]:
        """Return the finished choices."""
        return [self._choice(answer, i) for i in range(len(answer.choices))]

    def _choice(self, answer: Answer, i: int) -> dict[str, Any]:
        choice = answer.choices[i]
        whole = choice.whole
        message: dict[str, Any] = {"role": "assistant", "content": whole.text, "refusal": None}
        if whole.reasoning:
            message["reasoning_content"] = whole.reasoning
        if whole.tool_runs:
            message["tool_runs"] = whole.tool_runs
        if whole.tool_calls:
            message |= {"tool_calls": whole.tool_calls, "content": whole.text or None}
        return {
            "index": i,
            "message": message,
            "logprobs": self._logprobs(answer, whole),
            "finish_reason": choice.finish_reason,
            **self._ids(answer, whole),
        }

    def chunks(self, answer: Answer, i: int, piece: Piece) -> list[dict[str, Any]]:
        """Return the events of one piece: the role first, what was written, the end by itself."""

        def chunk(delta: dict[str, Any], reason: str | None = None) -> dict[str, Any]:
            return {"index": i, "delta": delta, "logprobs": None, "finish_reason": reason}

        found = []
        if i not in self.begun:
            self.begun.add(i)
            found.append(chunk({"role": "assistant", "content": ""}))
        choice = answer.choices[i]
        delta: dict[str, Any] = {}
        if piece.text or (piece.logprobs and self.wants_logprobs):
            delta["content"] = piece.text
        if piece.reasoning:
            delta["reasoning_content"] = piece.reasoning
        if piece.tool_runs:
            delta["tool_runs"] = piece.tool_runs
        if piece.tool_calls:
            n_before = len(choice.whole.tool_calls) - len(piece.tool_calls)
            delta["tool_calls"] = [
                {"index": n_before + k, **call} for k, call in enumerate(piece.tool_calls)
            ]
        ids = self._ids(answer, piece) if piece.ids else {}
        if delta or ids:
            found.append(chunk(delta) | ids)
            if piece.logprobs:
                found[-1]["logprobs"] = self._logprobs(answer, piece)
        if choice.finish_reason:
            found.append(chunk({}, choice.finish_reason))
        return found

    def _logprobs(self, answer: Answer, piece: Piece) -> dict[str, Any] | None:
        if not self.wants_logprobs:
            return None
        tokenizer, with_ids = answer.service.tokenizer, answer.common.wants_ids
        return chat_logprobs(piece.logprobs, tokenizer, with_ids)

    def _ids(self, answer: Answer, piece: Piece) -> dict[str, Any]:
        fields = token_fields(answer.common, "", piece.ids, answer.service.tokenizer)
        return fields | {"token_mask": piece.mask} if fields else {}
