"""POST /v1/chat/completions: turns OpenAI's messages into a prompt, and the events of replies into OpenAI's JSON.

OpenAI's API puts a tool call and its result into separate messages. In our protocol both stand inside the
assistant's turn, so these messages are joined, and a conversation that ends with a tool's result is an
assistant's turn that continues.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from llmpipe.apps.serve.errors import ApiError
from llmpipe.apps.serve.logprobs import chat_logprobs, own_logprobs, token_fields
from llmpipe.apps.serve.parse import (
    CHAT_FIELDS,
    Settings,
    answer_tokens,
    parse_settings,
    refuse,
    token_ids,
)
from llmpipe.apps.serve.parse import field as body_field
from llmpipe.apps.serve.service import Service
from llmpipe.apps.serve.worker import Exchange
from llmpipe.assistant.events import (
    AddedTokens,
    Done,
    Event,
    TextDelta,
    ThinkDelta,
    ToolCall,
    ToolResult,
)
from llmpipe.assistant.frames import can_chat
from llmpipe.assistant.render import (
    Message,
    Part,
    Rendered,
    Text,
    Thought,
    ToolOutput,
    part_ids,
    render,
)
from llmpipe.assistant.reply import Reply
from llmpipe.assistant.rules import MIN_OUTPUT_TOKENS, ReplyRules
from llmpipe.assistant.tool_list import TOOLS, called, signatures, with_tool_list
from llmpipe.assistant.tools import TOOL_NAMES, ToolName
from llmpipe.tokenizer.bpe import Tokenizer

_ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}
_NO_FORMAT = "answers are text: this server does not force them into JSON or a schema"


async def chat_completions(service: Service, request: Request, body: dict[str, Any]) -> Response:
    """Answer a conversation."""
    service.check_model(body.get("model"))
    refuse(body, "response_format", {"type": "text"}, why=_NO_FORMAT)
    tokenizer = service.tokenizer
    rendered, rules = read_prompt(body, tokenizer, service.tool_names)
    ids = rendered.ids
    service.check_prompt(ids, "messages")
    wants_logprobs = body_field(body, "logprobs", bool, False)
    n_top = body_field(body, "top_logprobs", int, 0)
    n_room = service.worker.engine.max_len
    max_tokens = answer_tokens(body, n_room, "max_completion_tokens", "max_tokens")
    settings = parse_settings(
        body, CHAT_FIELDS, service.limits, max(max_tokens, 1), n_top if wants_logprobs else None
    )
    rules = replace(rules, stops=settings.stops, ends=service.stop_ids)
    replies = [Reply(tokenizer, rules) for _ in settings.samplings]
    given = await _begin(service, body, replies, n_room - 1 - len(ids))
    ids = [*ids, *replies[0].ids]
    service.check_prompt(ids, "messages")
    kind = "chat.completion.chunk" if settings.stream else "chat.completion"
    head = service.head("chatcmpl", kind)
    prompt = token_fields(settings, "prompt_", ids, tokenizer)
    shape = ChatShape(replies, settings, wants_logprobs)
    return await Exchange(service, settings, [ids], replies, given).respond(
        request, head, shape, prompt
    )


# -- from messages to a prompt -----------------------------------------------------------------


def read_prompt(
    body: Mapping[str, Any], tokenizer: Tokenizer, own_tools: Sequence[ToolName]
) -> tuple[Rendered, ReplyRules]:
    """Return the ids that the model continues, and the rules of its reply.

    A request that names its tools has them listed in the system message.

    Args:
        body: with `messages`, and fields about how to read them.
        own_tools: those that run here.
    """
    if not can_chat(tokenizer):
        raise ApiError(400, "this model cannot chat; use /v1/completions", "unsupported_value")
    messages = body_field(body, "messages", list, [])
    if not messages:
        raise ApiError(400, "`messages` is empty", param="messages")
    add_generation_prompt = body_field(body, "add_generation_prompt", bool, True)
    rules = _offered_tools(body, own_tools)
    turns, is_open = _joined_turns(messages)
    if body_field(body, "continue_final_message", bool, False) and turns[-1][0] == "assistant":
        is_open = True
    whole = [Message(role, parts) for role, parts in (turns[:-1] if is_open else turns)]
    if body.get("tools") is not None or body.get("tool_choice") == "none":
        allowed = rules.runs | rules.hands_over
        whole = with_tool_list(whole, [name for name in TOOL_NAMES if name in allowed])
    rendered = render(whole, tokenizer, add_generation_prompt=is_open or add_generation_prompt)
    if is_open:
        for part in turns[-1][1]:
            rendered.add(part_ids(part, tokenizer), trained=not isinstance(part, ToolOutput))
    return rendered, rules


def _joined_turns(messages: Sequence[Any]) -> tuple[list[tuple[Any, list[Part]]], bool]:
    """Return (role, parts) of the turns, and whether the model is to continue the last one."""
    turns: list[tuple[Any, list[Part]]] = []
    is_open = False
    for i, message in enumerate(messages):
        where = f"messages[{i}]"
        if not isinstance(message, dict):
            raise ApiError(400, f"{where} must be an object", param=where)
        role = message.get("role")
        if role == "tool":
            if not turns or not called(turns[-1][1][-1]):
                raise ApiError(400, f"{where} answers no tool call", param=where)
            turns[-1][1].append(ToolOutput(_text(message, where)))
            is_open = True
            continue
        if not isinstance(role, str) or role not in _ROLES:
            known = ", ".join((*_ROLES, "tool"))
            raise ApiError(400, f"{where}.role must be one of {known}", param=f"{where}.role")
        parts: list[Part] = []
        if (thought := message.get("reasoning_content")) and role == "assistant":
            if not isinstance(thought, str):
                where = f"{where}.reasoning_content"
                raise ApiError(400, f"{where} must be a string", param=where)
            parts.append(Thought(thought))
        parts += [Text(_text(message, where))] if message.get("content") else []
        parts += _calls(message, where)
        if is_open and role == "assistant":
            turns[-1][1].extend(parts)
        else:
            turns.append((_ROLES[role], parts or [Text("")]))
        is_open = False
    return turns, is_open


def _text(message: Mapping[str, Any], where: str) -> str:
    content = message.get("content")
    if isinstance(content, str):
        return content
    if isinstance(content, list) and all(
        isinstance(part, dict) and part.get("type") == "text" and isinstance(part.get("text"), str)
        for part in content
    ):
        return "".join(part["text"] for part in content)
    where = f"{where}.content"
    raise ApiError(400, f"{where} must be a string or a list of texts", param=where)


def _calls(message: Mapping[str, Any], where: str) -> list[Part]:
    calls: list[Part] = []
    given = message.get("tool_calls") or []
    where = f"{where}.tool_calls"
    if not isinstance(given, list) or (given and message["role"] != "assistant"):
        raise ApiError(400, f"{where} must be a list, of an assistant", param=where)
    for call in given:
        try:
            form = TOOLS[call["function"]["name"]]
            text = json.loads(call["function"]["arguments"])[form.argument]
        except (KeyError, TypeError, ValueError, RecursionError):
            wrong = f"{where}: this call cannot be shown to the model, which knows {signatures()}"
            raise ApiError(400, wrong, param=where) from None
        if not isinstance(text, str):
            raise ApiError(400, f"{where}: the argument must be a string", param=where)
        calls.append(form.part(text))
    return calls


def _offered_tools(body: Mapping[str, Any], own: Sequence[ToolName]) -> ReplyRules:
    """Return which tools a request offers.

    Without `tools` these are all of the server's own. In the list, `{"type": "function", …}` is a tool
    of the client, and `{"type": "python"}` one of the server. An empty list is none.

    Raises:
        ApiError: if a tool is not one that the model was trained to call, or does not run here.
    """
    choice = body.get("tool_choice")
    if choice not in (None, "auto", "none"):
        message = "`tool_choice` can be `auto` or `none`"
        raise ApiError(400, message, "unsupported_value", "tool_choice")
    tools = body_field(body, "tools", list, None)
    by_client: set[ToolName] = set()
    by_server: set[ToolName] = set(own) if tools is None else set()
    for tool in tools or ():
        kind = tool.get("type", "function") if isinstance(tool, dict) else None
        if isinstance(kind, str) and kind in TOOLS:
            if kind not in own:
                message = f"this server runs no tool `{kind}`; start it with `--tools {kind}`"
                raise ApiError(400, message, "unsupported_value", "tools")
            by_server.add(kind)
        else:
            try:
                name = tool["function"]["name"]
            except (KeyError, TypeError):
                name = None
            if name not in TOOL_NAMES:
                message = f"this model was trained to call {signatures()} and nothing else"
                raise ApiError(400, message, "unsupported_value", "tools")
            by_client.add(name)
    if by_client & by_server:
        raise ApiError(400, "a tool is offered twice", "unsupported_value", "tools")
    if choice == "none":
        return ReplyRules(runs=frozenset())
    return ReplyRules(runs=frozenset(by_server), hands_over=frozenset(by_client))


async def _begin(
    service: Service, body: dict[str, Any], replies: Sequence[Reply], room: int
) -> list[list[Event]]:
    """Put the ids that the turn begins with into the replies; return the events to tell the client.

    A turn that ends with a call to one of the server's tools gets the tool's output here: nothing
    will be sampled that could pause for it.
    """
    ids = token_ids(body, "continue_token_ids", service.tokenizer.vocab_size)
    if set(ids) & {*replies[0].rules.ends, *ReplyRules().stop_ids(service.tokenizer)}:
        raise ApiError(400, "these ids end the turn", param="continue_token_ids")
    echo = body_field(body, "echo", bool, False)
    given: list[list[Event]] = []
    for reply in replies:
        # The client knows the ids. A call that waits for its output has not been carried out: it is news.
        told: list[Event] = [one for one in reply.begin(ids) if not isinstance(one, AddedTokens)]
        if not echo:
            told = [reply.call] if reply.call else []
        given.append(told)
    if call := replies[0].call:
        room -= len(ids)
        if room < MIN_OUTPUT_TOKENS:
            raise ApiError(400, "no room for the tool's output", "context_length_exceeded")
        output = await service.run_tool(call)
        for reply, events in zip(replies, given, strict=True):
            events += reply.give(output, room)
    for reply in replies:
        reply.take_injected()  # these ids are part of the prompt
    return given


# -- from events to choices --------------------------------------------------------------------


@dataclass
class _Choice:
    """One reply so far: `tool_calls` are for the client to carry out, `tool_runs` are the server's."""

    has_begun: bool = False
    text: str = ""
    reasoning: str = ""
    tool_calls: list[dict[str, Any]] = field(default_factory=list)
    tool_runs: list[dict[str, Any]] = field(default_factory=list)
    tokens: list[AddedTokens] = field(default_factory=list)
    finish_reason: str | None = None


@dataclass
class ChatShape:
    """Makes the JSON of an answer: `delta` by `delta` in a stream, or one message."""

    replies: Sequence[Reply]
    settings: Settings
    wants_logprobs: bool

    def __post_init__(self) -> None:
        self._choices = [_Choice() for _ in self.replies]

    def chunks(self, i_reply: int, events: Sequence[Event]) -> list[dict[str, Any]]:
        """Return the role first, then what was written, and the end in a chunk of its own."""

        def chunk(delta: dict[str, Any], reason: str | None = None) -> dict[str, Any]:
            return {"index": i_reply, "delta": delta, "logprobs": None, "finish_reason": reason}

        found = []
        choice = self._choices[i_reply]
        if not choice.has_begun:
            choice.has_begun = True
            found.append(chunk({"role": "assistant", "content": ""}))
        delta = self._delta(i_reply, events)
        tokens = [event for event in events if isinstance(event, AddedTokens)]
        choice.tokens += tokens
        ids = self._ids(tokens) if tokens else {}
        logprobs = self._logprobs(tokens)
        has_logprobs = logprobs is not None and logprobs["content"]
        if has_logprobs:
            delta.setdefault("content", "")
        if delta or ids:
            found.append(chunk(delta) | ids | ({"logprobs": logprobs} if has_logprobs else {}))
        if choice.finish_reason:
            found.append(chunk({}, choice.finish_reason))
        return found

    def _delta(self, i_reply: int, events: Sequence[Event]) -> dict[str, Any]:
        """Return what events add to a message, and keep it in the choice."""
        choice = self._choices[i_reply]
        delta: dict[str, Any] = {}
        rules = self.replies[i_reply].rules
        has_ended = bool(events) and isinstance(events[-1], Done)
        for event in events:
            match event:
                case TextDelta(text):
                    choice.text += text
                    delta["content"] = delta.get("content", "") + text
                case ThinkDelta(text):
                    choice.reasoning += text
                    delta["reasoning_content"] = delta.get("reasoning_content", "") + text
                case ToolCall(tool, text) if has_ended and tool in rules.hands_over:
                    arguments = json.dumps({TOOLS[tool].argument: text})
                    call = {
                        "id": f"call_{secrets.token_hex(12)}",
                        "type": "function",
                        "function": {"name": tool, "arguments": arguments},
                    }
                    n = len(choice.tool_calls)
                    choice.tool_calls.append(call)
                    delta.setdefault("tool_calls", []).append({"index": n, **call})
                case ToolCall(tool, text):
                    run = {"name": tool, "input": text}
                    n = len(choice.tool_runs)
                    choice.tool_runs.append(run | {"output": None})
                    delta.setdefault("tool_runs", []).append({"index": n, **run})
                case ToolResult(_, text):
                    n = len(choice.tool_runs) - 1
                    choice.tool_runs[n]["output"] = text
                    delta.setdefault("tool_runs", []).append({"index": n, "output": text})
                case Done(reason):
                    choice.finish_reason = "stop" if reason == "stop" else "length"
                    if choice.tool_calls:
                        choice.finish_reason = "tool_calls"
        return delta

    def choice(self, i: int) -> dict[str, Any]:
        """Return a finished choice."""
        choice = self._choices[i]
        message: dict[str, Any] = {"role": "assistant", "content": choice.text, "refusal": None}
        if choice.reasoning:
            message["reasoning_content"] = choice.reasoning
        if choice.tool_runs:
            message["tool_runs"] = choice.tool_runs
        if choice.tool_calls:
            message |= {"tool_calls": choice.tool_calls, "content": choice.text or None}
        return {
            "index": i,
            "message": message,
            "logprobs": self._logprobs(choice.tokens),
            "finish_reason": choice.finish_reason,
            **self._ids(choice.tokens),
        }

    def _logprobs(self, tokens: Sequence[AddedTokens]) -> dict[str, Any] | None:
        if not self.wants_logprobs:
            return None
        with_ids = self.settings.wants_ids
        logprobs = own_logprobs(tokens, keeps_end=with_ids)
        return chat_logprobs(logprobs, self.replies[0].tokenizer, with_ids)

    def _ids(self, tokens: Sequence[AddedTokens]) -> dict[str, Any]:
        ids = [id for event in tokens for id in event.ids]
        fields = token_fields(self.settings, "", ids, self.replies[0].tokenizer)
        mask = [event.is_sampled for event in tokens for _ in event.ids]
        return fields | {"token_mask": mask} if fields else {}
