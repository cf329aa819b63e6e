"""POST /v1/completions: continues a text, and scores given texts by log-probability (lm-eval).

This is all that a base model can do: it has learned to continue documents, and knows no turns.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from llmpipe.apps.serve.errors import ApiError
from llmpipe.apps.serve.logprobs import (
    chat_logprobs,
    completion_logprobs,
    own_logprobs,
    token_fields,
)
from llmpipe.apps.serve.parse import (
    COMPLETION_FIELDS,
    Settings,
    answer_tokens,
    field,
    parse_settings,
    refuse,
)
from llmpipe.apps.serve.service import Service
from llmpipe.apps.serve.worker import Exchange
from llmpipe.assistant.events import AddedTokens, Done, Event, TextDelta
from llmpipe.assistant.reply import Reply
from llmpipe.assistant.rules import ReplyRules
from llmpipe.inference.engine import LogProb

DEFAULT_MAX_TOKENS = 16  # Source: OpenAI's API reference, completions, `max_tokens`


@dataclass(frozen=True)
class _Prompt:
    """Ids, and how many of them the client did not send: the document mark before a text."""

    ids: list[int]
    n_hidden: int


async def completions(service: Service, request: Request, body: dict[str, Any]) -> Response:
    """Continue one or several prompts."""
    service.check_model(body.get("model"))
    refuse(body, "suffix", "")
    refuse(body, "best_of", field(body, "n", int, 1))
    prompts = _prompts(service, body.get("prompt"))
    echo = field(body, "echo", bool, False)
    n_logprobs = field(body, "logprobs", int, None)
    max_tokens = answer_tokens(body, DEFAULT_MAX_TOKENS, "max_tokens")
    if max_tokens == 0 and not echo:
        raise ApiError(400, "`max_tokens` is 0, which needs `echo`", param="max_tokens")
    settings = parse_settings(
        body, COMPLETION_FIELDS, service.limits, max(max_tokens, 1), n_logprobs
    )
    n_choices = len(prompts) * len(settings.samplings)
    if n_choices > service.limits.max_choices:
        message = f"{n_choices} answers, and {service.limits.max_choices} are allowed at once"
        raise ApiError(400, message, param="n")
    if echo and settings.stream and n_logprobs is not None:
        message = "`echo` with `logprobs` cannot be streamed"
        raise ApiError(400, message, "unsupported_value", "stream")
    rules = ReplyRules(stops=settings.stops, ends=service.stop_ids, is_plain=True)
    replies = [Reply(service.tokenizer, rules) for _ in range(n_choices)]
    scores = echo and n_logprobs is not None
    ids = [prompt.ids for prompt in prompts]
    exchange = Exchange(service, settings, ids, replies, scores_prompts=scores)
    of_each = [prompt for prompt in prompts for _ in settings.samplings]
    shape = _TextShape(replies, of_each, settings, echo, max_tokens == 0, n_logprobs is not None)
    head = service.head("cmpl", "text_completion")
    return await exchange.respond(request, head, shape, {})


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
class _TextShape:
    """Makes the JSON of the answers.

    Attributes:
        prompts: of each reply.
        echo: the prompt belongs to the answer.
        is_empty: nothing was to be written: the client wants its own text scored.
    """

    replies: Sequence[Reply]
    prompts: Sequence[_Prompt]
    settings: Settings
    echo: bool
    is_empty: bool
    wants_logprobs: bool

    def __post_init__(self) -> None:
        self._tokenizer = self.replies[0].tokenizer
        self._texts = ["" for _ in self.replies]
        self._tokens: list[list[AddedTokens]] = [[] for _ in self.replies]

    def chunks(self, i_reply: int, events: Sequence[Event]) -> list[dict[str, Any]]:
        """Return the chunk for one token of a streamed answer, if there is anything to show."""
        tokens = [event for event in events if isinstance(event, AddedTokens)]
        text = "".join(event.text for event in events if isinstance(event, TextDelta))
        offset = len(self._texts[i_reply])
        is_first = not self._tokens[i_reply]
        self._tokens[i_reply] += tokens
        self._texts[i_reply] += text
        if not self.settings.stream:
            return []
        entries = own_logprobs(tokens, self.settings.wants_ids)
        text = "" if self.is_empty else text
        if self.echo and is_first:
            text = self._prompt_text(i_reply) + text
        has_ended = bool(events) and isinstance(events[-1], Done)
        reason = _finish_reason(self.replies[i_reply]) if has_ended else None
        if not (text or entries or reason or self.settings.wants_ids):
            return []
        made = {
            "index": i_reply,
            "text": text,
            "logprobs": self._logprobs(entries, None, offset) if self.wants_logprobs else None,
            "finish_reason": reason,
        }
        return [made | self._ids(i_reply, tokens, with_prompt=is_first)]

    def choice(self, i: int) -> dict[str, Any]:
        """Return a finished choice."""
        prompt, reply = self.prompts[i], self.replies[i]
        tokens = [] if self.is_empty else self._tokens[i]
        text = "" if self.is_empty else self._texts[i]
        entries: list[LogProb | None] = []
        if self.echo:
            text = self._prompt_text(i) + text
            if not prompt.n_hidden:
                entries.append(None)  # nothing stands before the first id, which predicts it
            entries += reply.prompt_logprobs
        entries += own_logprobs(tokens, self.settings.wants_ids)
        made = {
            "index": i,
            "text": text,
            "logprobs": self._logprobs(entries, prompt.ids[0], 0) if self.wants_logprobs else None,
            "finish_reason": "length" if self.is_empty else _finish_reason(reply),
        }
        return made | self._ids(i, tokens, with_prompt=True)

    def _prompt_text(self, i: int) -> str:
        prompt = self.prompts[i]
        return self._tokenizer.decode(prompt.ids[prompt.n_hidden :])

    def _logprobs(
        self, entries: Sequence[LogProb | None], first_id: int | None, offset: int
    ) -> dict[str, Any]:
        logprobs = completion_logprobs(list(entries), first_id, self._tokenizer, offset)
        if self.settings.wants_ids:
            known = [entry for entry in entries if entry is not None]
            logprobs |= chat_logprobs(known, self._tokenizer, with_ids=True)
        return logprobs

    def _ids(self, i: int, tokens: Sequence[AddedTokens], with_prompt: bool) -> dict[str, Any]:
        """Return the fields of `return_token_ids`."""
        ids = [id for event in tokens for id in event.ids]
        fields = token_fields(self.settings, "", ids, self._tokenizer)
        if fields and with_prompt:
            fields |= token_fields(self.settings, "prompt_", self.prompts[i].ids, self._tokenizer)
        return fields


def _finish_reason(reply: Reply) -> str:
    assert reply.done, "only a reply that has ended says why"
    return "stop" if reply.done.reason == "stop" else "length"
