"""POST /v1/completions: going on with a text, and log-probabilities of texts that are given (lm-eval)."""

from __future__ import annotations

import secrets
import time
from dataclasses import dataclass
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from llmpipe.apps.serve.choice import Choice, Piece
from llmpipe.apps.serve.errors import ApiError
from llmpipe.apps.serve.logprobs import chat_logprobs, completion_logprobs, token_fields
from llmpipe.apps.serve.parse import (
    COMPLETION_FIELDS,
    answer_tokens,
    field,
    parse_common,
    parse_json,
    refuse,
)
from llmpipe.apps.serve.service import Answer, Service
from llmpipe.apps.serve.worker import Task
from llmpipe.inference.engine import LogProb

DEFAULT_MAX_TOKENS = 16  # Source: OpenAI's API reference, completions, `max_tokens`


@dataclass(frozen=True)
class _Prompt:
    """Ids, and how many of them the client did not send: the document mark before a text."""

    ids: list[int]
    n_hidden: int


async def completions(service: Service, request: Request) -> Response:
    """Go on with one or several prompts."""
    body = parse_json(await service.read_body(request))
    service.check_model(body.get("model"))
    refuse(body, "suffix", "")
    refuse(body, "best_of", field(body, "n", int, 1))
    prompts = _prompts(service, body.get("prompt"))
    echo = field(body, "echo", bool, False)
    n_logprobs = field(body, "logprobs", int, None)
    max_tokens = answer_tokens(body, DEFAULT_MAX_TOKENS, "max_tokens")
    if max_tokens == 0 and not echo:
        raise ApiError(400, "`max_tokens` is 0, which needs `echo`", param="max_tokens")
    common = parse_common(body, COMPLETION_FIELDS, service.limits, max(max_tokens, 1), n_logprobs)
    n_choices = len(prompts) * len(common.samplings)
    if n_choices > service.limits.max_choices:
        message = f"{n_choices} answers, and {service.limits.max_choices} are allowed at once"
        raise ApiError(400, message, param="n")
    if echo and common.stream and n_logprobs is not None:
        raise ApiError(
            400, "`echo` with `logprobs` cannot be streamed", "unsupported_value", "stream"
        )
    scores_prompt = echo and n_logprobs is not None
    tasks = [
        Task(p.ids, common.samplings, service.stop_ids, prompt_logprobs=scores_prompt)
        for p in prompts
    ]
    choices = [
        Choice(service.tokenizer, common.stops, has_parts=False, keeps_end=common.wants_ids)
        for _ in range(n_choices)
    ]
    answer = Answer(service, "completions", common, tasks, choices)
    asked = _Asked(prompts, echo, max_tokens, n_logprobs is not None)
    head = {
        "id": f"cmpl-{secrets.token_hex(12)}",
        "object": "text_completion",
        "created": int(time.time()),
        "model": service.model,
    }
    return await answer.respond(request, head, asked.whole, asked.chunks)


def _prompts(service: Service, given: Any) -> list[_Prompt]:
    """Read a string, a list of ids, or a list of either."""
    if isinstance(given, str) or (
        isinstance(given, list) and given and all(type(item) is int for item in given)
    ):
        given = [given]
    if not isinstance(given, list) or not given:
        raise ApiError(400, "`prompt` must be text, token ids, or a list of these", param="prompt")
    if len(given) > service.limits.max_choices:
        message = f"{len(given)} prompts, and {service.limits.max_choices} are allowed"
        raise ApiError(400, message, param="prompt")
    n_ids = service.worker.engine.model.config.vocab_size
    prompts = []
    for item in given:
        if isinstance(item, str):
            # Only this line can put a control token in front of a text; spellings stay text.
            prompt = _Prompt([service.tokenizer.bos_id, *service.tokenizer.encode(item)], 1)
        elif isinstance(item, list) and item and all(type(id) is int for id in item):
            if not 0 <= min(item) <= max(item) < n_ids:
                raise ApiError(400, f"token ids are 0 to {n_ids - 1}", param="prompt")
            prompt = _Prompt(item, 0)
        else:
            raise ApiError(400, "each prompt must be text or token ids", param="prompt")
        service.check_prompt(prompt.ids, "prompt")
        prompts.append(prompt)
    return prompts


@dataclass
class _Asked:
    """How the answers are to be written down."""

    prompts: list[_Prompt]
    echo: bool
    max_tokens: int
    wants_logprobs: bool

    def whole(self, answer: Answer) -> list[dict[str, Any]]:
        """Return the finished choices."""
        return [self._choice(answer, i) for i in range(len(answer.choices))]

    def _choice(self, answer: Answer, i: int) -> dict[str, Any]:
        choice, prompt = answer.choices[i], self._prompt(answer, i)
        tokenizer = answer.service.tokenizer
        text = choice.whole.text if self.max_tokens else ""
        if self.echo:
            text = tokenizer.decode(prompt.ids[prompt.n_hidden :]) + text
        logprobs = None
        if self.wants_logprobs:
            entries: list[LogProb | None] = []
            if self.echo:
                entries += [None] if not prompt.n_hidden else []
                entries += answer.prompt_logprobs.get(i, ())
            entries += choice.whole.logprobs if self.max_tokens else []
            logprobs = completion_logprobs(entries, prompt.ids[0], tokenizer, 0)
            if answer.common.wants_ids:
                known = [entry for entry in entries if entry is not None]
                logprobs |= chat_logprobs(known, tokenizer, with_ids=True)
        made = {
            "index": i,
            "text": text,
            "logprobs": logprobs,
            "finish_reason": choice.finish_reason if self.max_tokens else "length",
        }
        piece = choice.whole if self.max_tokens else Piece()
        return made | self._ids(answer, i, piece, with_prompt=True)

    def _ids(self, answer: Answer, i: int, piece: Piece, with_prompt: bool) -> dict[str, Any]:
        """Return the fields of `return_token_ids`."""
        fields = token_fields(answer.common, "", piece.ids, answer.service.tokenizer)
        if fields and with_prompt:
            prompt = self._prompt(answer, i).ids
            fields |= token_fields(answer.common, "prompt_", prompt, answer.service.tokenizer)
        return fields

    def chunks(self, answer: Answer, i: int, piece: Piece) -> list[dict[str, Any]]:
        """Return the events of one piece of a streamed answer."""
        choice = answer.choices[i]
        text = piece.text if self.max_tokens else ""
        is_first = choice.n_tokens == 1
        if self.echo and is_first:
            prompt = self._prompt(answer, i)
            text = answer.service.tokenizer.decode(prompt.ids[prompt.n_hidden :]) + text
        if not (text or piece.logprobs or choice.finish_reason or answer.common.wants_ids):
            return []
        logprobs = None
        if self.wants_logprobs:
            offset = len(choice.whole.text) - len(piece.text)
            entries: list[LogProb | None] = list(piece.logprobs)
            logprobs = completion_logprobs(entries, None, answer.service.tokenizer, offset)
            if answer.common.wants_ids:
                logprobs |= chat_logprobs(piece.logprobs, answer.service.tokenizer, with_ids=True)
        reason = choice.finish_reason
        made = {"index": i, "text": text, "logprobs": logprobs, "finish_reason": reason}
        return [made | self._ids(answer, i, piece, with_prompt=is_first)]

    def _prompt(self, answer: Answer, i: int) -> _Prompt:
        return self.prompts[i // len(answer.common.samplings)]
