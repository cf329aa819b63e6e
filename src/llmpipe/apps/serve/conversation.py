"""Messages in OpenAI's shape as ids of our protocol.

OpenAI's API puts a tool's call and its result into messages of their own. In our protocol both stand
inside the assistant's turn, so these messages are joined, and a conversation that ends with a tool's result
is an assistant's turn that goes on.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from llmpipe.apps.serve.choice import TOOL_ARGUMENTS
from llmpipe.apps.serve.errors import ApiError
from llmpipe.apps.serve.offered import Offered, offered_tools
from llmpipe.apps.serve.parse import field
from llmpipe.assistant.frames import frame_for
from llmpipe.assistant.render import (
    Message,
    Part,
    PythonCall,
    Rendered,
    SearchCall,
    Text,
    Thought,
    ToolOutput,
    part_ids,
    render,
)
from llmpipe.assistant.tool_list import with_tool_list
from llmpipe.tokenizer.bpe import Tokenizer

_ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}


def can_chat(tokenizer: Tokenizer) -> bool:
    """Tell whether a vocabulary has the tokens that mark turns."""
    frame = frame_for(tokenizer)
    return {frame.start, frame.end} <= tokenizer.special.keys()


def render_request(
    body: Mapping[str, Any], tokenizer: Tokenizer, own_tools: Sequence[str]
) -> tuple[Rendered, Offered]:
    """Return the ids that the model goes on from, and the tools that it may use.

    A request that says which tools there are has them listed in the system message.

    Args:
        body: with `messages`, and what else says how they are to be read.
        tokenizer: of the model.
        own_tools: names of those that run here.
    """
    if not can_chat(tokenizer):
        raise ApiError(400, "this model cannot chat; use /v1/completions", "unsupported_value")
    messages = field(body, "messages", list, [])
    if not messages:
        raise ApiError(400, "`messages` is empty", param="messages")
    continue_final = field(body, "continue_final_message", bool, False)
    add_generation_prompt = field(body, "add_generation_prompt", bool, True)
    offered = offered_tools(body, own_tools)
    turns: list[tuple[str, list[Part]]] = []
    is_open = False  # the last turn waits to be gone on with
    for i, message in enumerate(messages):
        where = f"messages[{i}]"
        if not isinstance(message, dict):
            raise ApiError(400, f"{where} must be an object", param=where)
        role = message.get("role")
        if role == "tool":
            if not turns or not isinstance(turns[-1][1][-1], PythonCall | SearchCall):
                raise ApiError(400, f"{where} answers no tool call", param=where)
            turns[-1][1].append(ToolOutput(_text(message, where)))
            is_open = True
            continue
        if not isinstance(role, str) or role not in _ROLES:
            known = ", ".join((*_ROLES, "tool"))
            raise ApiError(400, f"{where}.role must be one of {known}", param=f"{where}.role")
        parts = _thoughts(message, where)
        parts += [Text(_text(message, where))] if message.get("content") else []
        parts += _calls(message, where)
        if is_open and role == "assistant":
            turns[-1][1].extend(parts)
        else:
            turns.append((_ROLES[role], parts or [Text("")]))
        is_open = False
    if continue_final and turns and turns[-1][0] == "assistant":
        is_open = True

    closed = turns[:-1] if is_open else turns
    whole = [Message(role, parts) for role, parts in closed]  # type: ignore[arg-type]
    if offered.is_explicit:
        whole = with_tool_list(whole, sorted(offered.all))
    rendered = render(whole, tokenizer, add_generation_prompt=is_open or add_generation_prompt)
    if is_open:
        for part in turns[-1][1]:
            rendered.add(part_ids(part, tokenizer), trained=not isinstance(part, ToolOutput))
    return rendered, offered


def _text(message: Mapping[str, Any], where: str) -> str:
    content = message.get("content")
    if isinstance(content, str):
        return content
    if isinstance(content, list) and all(
        isinstance(part, dict) and part.get("type") == "text" and isinstance(part.get("text"), str)
        for part in content
    ):
        return "".join(part["text"] for part in content)
    raise ApiError(
        400, f"{where}.content must be a string or a list of texts", param=f"{where}.content"
    )


def _thoughts(message: Mapping[str, Any], where: str) -> list[Part]:
    text = message.get("reasoning_content")
    if not text or message["role"] != "assistant":
        return []
    if not isinstance(text, str):
        where = f"{where}.reasoning_content"
        raise ApiError(400, f"{where} must be a string", param=where)
    return [Thought(text)]


def _calls(message: Mapping[str, Any], where: str) -> list[Part]:
    calls: list[Part] = []
    given = message.get("tool_calls") or []
    where = f"{where}.tool_calls"
    if not isinstance(given, list) or (given and message["role"] != "assistant"):
        raise ApiError(400, f"{where} must be a list, of an assistant", param=where)
    for call in given:
        try:
            name = call["function"]["name"]
            text = json.loads(call["function"]["arguments"])[TOOL_ARGUMENTS[name]]
        except (KeyError, TypeError, ValueError, RecursionError):
            known = ", ".join(f"{tool}({key})" for tool, key in TOOL_ARGUMENTS.items())
            message_ = f"{where}: this call cannot be shown to the model, which knows {known}"
            raise ApiError(400, message_, param=where) from None
        if not isinstance(text, str):
            raise ApiError(400, f"{where}: the argument must be a string", param=where)
        calls.append(PythonCall(text) if name == "python" else SearchCall(text))
    return calls
