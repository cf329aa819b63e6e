"""Rows of published data sets as messages of ours, in the shapes that such data sets have.

    messages           {"messages": [{"role": "user", "content": "…"}, …]}, with OpenAI's `tool_calls`
                       or with parts of type text, reasoning, tool_call, python, search, output
    ShareGPT           {"conversations": [{"from": "human", "value": "…"}, …]}
    Alpaca             {"instruction": "…", "input": "…", "output": "…"}, or with `instances`
    prompt-completion  {"prompt": "…", "completion": "…"}; texts, or lists of messages
    preference         {"chosen": …, "rejected": …}: the chosen side, as a text, a dialogue in
                       hh-rlhf's form, a message, or a list of them; a row that is marked as a bad
                       answer (`label` or `kto_tag` false) is not used
    dialogue           {"turns": [{"speaker": "USER", "utterance": "…"}, …]}

A call of `python` or `search` becomes our call. Any other function becomes a line of Python,
`get_weather(city="Oslo")`: one way to call tools is enough to learn. What a tool gave back is joined
to the assistant's turn, as our protocol has it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from llmpipe.assistant.conversation import part_from_json
from llmpipe.assistant.render import (
    Message,
    Part,
    PythonCall,
    SearchCall,
    Text,
    Thought,
    ToolOutput,
)
from llmpipe.assistant.tool_list import with_tool_list

_SPEAKERS = {
    "system": ("system", "developer"),
    "user": ("human", "user", "USER"),
    # In Schema-Guided Dialogue the SYSTEM is who answers.
    "assistant": ("gpt", "chatgpt", "bing", "model", "assistant", "SYSTEM"),
    "call": ("function_call",),
    "tool": ("tool", "observation", "ipython"),
}
ROLES = {name: role for role, names in _SPEAKERS.items() for name in names}
"""Names of speakers, over all shapes."""

_MESSAGE_KEYS = (("from", "value"), ("speaker", "utterance"), ("role", "content"))

PYTHON_NAMES = ("python", "ipython", "code_interpreter")
SEARCH_NAMES = ("search", "web_search")

_HH_TURN = re.compile(r"\n\n(Human|Assistant): ?")
_NAME = re.compile(r"[A-Za-z_][\w.]*")
_NOT_NAME = re.compile(r"\W+")


def parse_row(row: object) -> tuple[Message, ...]:
    """Return the messages of a row of any known shape.

    Raises:
        ValueError: the row cannot be used, with the reason.
    """
    if not isinstance(row, Mapping):
        raise ValueError(f"expected an object, got {type(row).__name__}")
    messages = _join_tools(_turns(row))
    tools = _tool_names(row.get("tools"))
    if tools:
        messages = with_tool_list(messages, tools)
    _check(messages)
    return tuple(messages)


# ------------------------------------------------------------------------------------------
# Shapes


def _turns(row: Mapping[str, Any]) -> list[Message]:
    """Return the turns of a row, tool calls and their results still apart."""
    given = {key for key, value in row.items() if value is not None}
    if row.get("label") is False or row.get("kto_tag") is False:
        raise ValueError("marked as a bad answer")
    if "chosen_messages" in given:
        return _messages(row["chosen_messages"], "chosen_messages")
    if {"chosen", "rejected"} <= given:
        return _chosen(row)
    for key in ("messages", "conversations", "turns"):
        if key in given:
            return _messages(row[key], key)
    if {"instruction", "output"} <= given:
        return _alpaca(row, row)
    if {"instruction", "instances"} <= given:
        instances = row["instances"]
        if (
            not isinstance(instances, list)
            or not instances
            or not isinstance(instances[0], Mapping)
        ):
            raise ValueError("`instances` must be a list of objects")
        return _alpaca(row, instances[0])
    if {"prompt", "completion"} <= given:
        return [*_side(row, "prompt", "user"), *_side(row, "completion", "assistant")]
    raise ValueError(f"no known shape among the keys {', '.join(sorted(map(str, row)))}")


def _alpaca(row: Mapping[str, Any], filled: Mapping[str, Any]) -> list[Message]:
    extra = filled.get("input") or ""
    question = _text(row, "instruction") + (f"\n\n{extra}" if extra else "")
    system = [Message("system", _text(row, "system"))] if row.get("system") else []
    return [*system, Message("user", question), Message("assistant", _text(filled, "output"))]


def _chosen(row: Mapping[str, Any]) -> list[Message]:
    """Return the better of two answers, with what stands before both."""
    before: list[Message] = []
    if row.get("conversations"):
        before = _messages(row["conversations"], "conversations")
    elif row.get("prompt"):
        before = _side(row, "prompt", "user")
    chosen = row["chosen"]
    if isinstance(chosen, str) and _HH_TURN.match(chosen):
        return _dialogue(chosen)
    after = _side(row, "chosen", "assistant")
    # Some sets repeat the prompt in `chosen`.
    return after if before and after[: len(before)] == before else [*before, *after]


def _dialogue(text: str) -> list[Message]:
    """Split a dialogue in which each turn begins with a blank line and `Human:` or `Assistant:`."""
    pieces = _HH_TURN.split(text)[1:]
    speakers, words = pieces[::2], pieces[1::2]
    return [
        Message("user" if speaker == "Human" else "assistant", said.strip())
        for speaker, said in zip(speakers, words, strict=True)
    ]


def _side(row: Mapping[str, Any], key: str, role: str) -> list[Message]:
    """Return a prompt or an answer: a text, a message, or a list of messages."""
    value = row[key]
    if isinstance(value, list):
        return _messages(value, key)
    if isinstance(value, Mapping):
        return [_message(value)]
    return [Message(role, _text(row, key))]  # type: ignore[arg-type]  # one of two literals


# ------------------------------------------------------------------------------------------
# Messages


def _messages(items: object, key: str) -> list[Message]:
    if not isinstance(items, Sequence) or isinstance(items, str) or not len(items):
        raise ValueError(f"`{key}` must be a list with messages")
    return [_message(item) for item in items]


def _message(item: object) -> Message:
    if not isinstance(item, Mapping):
        raise ValueError(f"expected a message, got {type(item).__name__}")
    who, what = next((keys for keys in _MESSAGE_KEYS if keys[0] in item), ("role", "content"))
    said_by = item.get(who)
    role = ROLES.get(said_by) if isinstance(said_by, str) else None
    if role is None:
        kind = "role" if who == "role" else "speaker"
        raise ValueError(f"unknown {kind} `{said_by}`")
    parts = _parts(item, what, is_call=role == "call")
    is_trained = item.get("loss_weight") != 0 and item.get("weight") != 0
    if role == "call":
        role = "assistant"
    # The mapping above holds roles only.
    return Message(role, parts, is_trained or role != "assistant")  # type: ignore[arg-type]


def _parts(item: Mapping[str, Any], key: str, is_call: bool) -> list[Part]:
    content = item.get(key)
    parts: list[Part] = []
    if isinstance(item.get("reasoning_content"), str) and item["reasoning_content"]:
        parts.append(Thought(item["reasoning_content"]))
    calls = item.get("tool_calls") or []
    if is_call and isinstance(content, str):
        parts.append(_call_from_text(content))
    elif isinstance(content, str):
        parts += [Text(content)] if content or not calls else []
    elif isinstance(content, list) and all(isinstance(part, Mapping) for part in content):
        parts += [_part(part) for part in content]
    elif content is not None or not calls:
        raise ValueError(f"a message's `{key}` must be a text or a list of parts")
    if not isinstance(calls, list):
        raise ValueError("`tool_calls` must be a list")
    for call in calls:
        if not isinstance(call, Mapping):
            raise ValueError("`tool_calls` must hold objects")
        parts.append(_call(call.get("function", call)))
    return parts


def _part(part: Mapping[str, Any]) -> Part:
    words = part.get("value", part.get("text"))
    match part.get("type"):
        case "reasoning" | "thinking":
            thought = part.get("thinking", words)
            return Thought(str(thought))
        case "tool_call":
            return _call_from_text(words) if isinstance(words, str) else _call(words)
        case _:
            return part_from_json(part)


def _call_from_text(text: str) -> Part:
    try:
        return _call(json.loads(text))
    except json.JSONDecodeError as error:
        raise ValueError(f"a tool call is not JSON: {error.msg}") from None


def _call(call: object) -> PythonCall | SearchCall:
    """Return a call of ours for a function's name and arguments."""
    if not isinstance(call, Mapping) or not isinstance(call.get("name"), str):
        raise ValueError("a tool call needs the name of a function")
    name, given = call["name"], call.get("arguments", call.get("parameters", {}))
    if isinstance(given, str):
        try:
            given = json.loads(given)
        except json.JSONDecodeError:
            given = {"code": given} if name in PYTHON_NAMES else {"query": given}
    if not isinstance(given, Mapping):
        raise ValueError(f"the arguments of `{name}` are no object")
    if name in PYTHON_NAMES and isinstance(given.get("code"), str):
        return PythonCall(given["code"])
    if name in SEARCH_NAMES and isinstance(given.get("query"), str):
        return SearchCall(given["query"])
    words = ", ".join(f"{_as_name(key)}={value!r}" for key, value in given.items())
    return PythonCall(f"{_as_name(name)}({words})")


def _as_name(text: object) -> str:
    """Write a name as Python can have it."""
    name = str(text)
    return name if _NAME.fullmatch(name) else _NOT_NAME.sub("_", name).strip("_") or "_"


def _tool_names(tools: object) -> list[str]:
    """Return the names in a row's list of tools, which some sets keep as JSON in a string."""
    if isinstance(tools, str):
        try:
            tools = json.loads(tools)
        except json.JSONDecodeError:
            return []
    if not isinstance(tools, list):
        return []
    described = [t.get("function", t) for t in tools if isinstance(t, Mapping)]
    return [_as_name(t["name"]) for t in described if isinstance(t, Mapping) and "name" in t]


def _join_tools(turns: Sequence[Message]) -> list[Message]:
    """Put results into the turn that asked for them, and what is said after them too.

    Calls made at once are one program: its lines, and then all that came back.
    """
    joined: list[Message] = []
    for turn in turns:
        before = joined[-1] if joined else None
        waits = before is not None and before.role == "assistant" and _is_in_tools(before)
        if before is not None and waits and turn.role in ("assistant", "tool"):
            parts = _as_program(turn.parts)
            if turn.role == "tool":
                parts = (ToolOutput(turn.text),)
                if isinstance(before.parts[-1], ToolOutput):
                    earlier = before.parts[-1].text
                    before = Message("assistant", before.parts[:-1], before.is_trained)
                    parts = (ToolOutput(f"{earlier}\n{turn.text}"),)
            joined[-1] = Message("assistant", (*before.parts, *parts), before.is_trained)
        else:
            joined.append(Message(turn.role, _as_program(turn.parts), turn.is_trained))
    return joined


def _is_in_tools(turn: Message) -> bool:
    """Whether a turn stands at a call or at its result."""
    return bool(turn.parts) and isinstance(turn.parts[-1], PythonCall | SearchCall | ToolOutput)


def _as_program(parts: tuple[Part, ...]) -> tuple[Part, ...]:
    """Make one call of neighboring Python calls."""
    result: list[Part] = []
    for part in parts:
        if isinstance(part, PythonCall) and result and isinstance(result[-1], PythonCall):
            result[-1] = PythonCall(f"{result[-1].code}\n{part.code}")
        else:
            result.append(part)
    return tuple(result)


# ------------------------------------------------------------------------------------------
# What a row must have


def _check(messages: Sequence[Message]) -> None:
    if not any(message.role == "user" and message.text.strip() for message in messages):
        raise ValueError("nobody asks anything: no user message with words")
    if not any(message.role == "assistant" for message in messages):
        raise ValueError("no message of the assistant, so nothing to train on")
    for i, message in enumerate(messages, start=1):
        if message.role == "assistant" and not any(_has_words(part) for part in message.parts):
            raise ValueError(f"message {i}: the assistant says nothing")


def _has_words(part: object) -> bool:
    return any(value.strip() for value in vars(part).values())


def _text(row: Mapping[str, Any], key: str) -> str:
    if not isinstance(row.get(key), str):
        raise ValueError(f"`{key}` must be a text")
    return str(row[key])
