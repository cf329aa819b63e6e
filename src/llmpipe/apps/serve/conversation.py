"""Messages in OpenAI's shape as ids of our protocol.

OpenAI's API puts a tool's call and its result into messages of their own. In our protocol both stand
inside the assistant's turn, so these messages are joined, and a conversation that ends with a tool's result
is an assistant's turn that goes on.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from llmpipe.apps.serve.choice import TOOL_ARGUMENTS
from llmpipe.apps.serve.errors import ApiError
from llmpipe.assistant.render import (
    Message,
    Part,
    PythonCall,
    SearchCall,
    Text,
    ToolOutput,
    part_ids,
    render,
)
from llmpipe.tokenizer.bpe import Tokenizer

_ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}


def prompt_ids(
    messages: list[Any], tokenizer: Tokenizer, continue_final: bool, add_generation_prompt: bool
) -> list[int]:
    """Return the ids that the model goes on from.

    Args:
        messages: as they came.
        tokenizer: of the model.
        continue_final: leave the last assistant's message open.
        add_generation_prompt: open an assistant's turn at the end.
    """
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
        parts: list[Part] = [Text(_text(message, where))] if message.get("content") else []
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
    ids = render(whole, tokenizer, add_generation_prompt=is_open or add_generation_prompt).ids
    if is_open:
        ids += [id for part in turns[-1][1] for id in part_ids(part, tokenizer)]
    return ids


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
