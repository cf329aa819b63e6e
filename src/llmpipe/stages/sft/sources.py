"""Reading conversations from files, in the four shapes that published data sets have.

    messages           {"messages": [{"role": "user", "content": "…"}, …]}
    ShareGPT           {"conversations": [{"from": "human", "value": "…"}, …]}
    Alpaca             {"instruction": "…", "input": "…", "output": "…"}
    prompt-completion  {"prompt": "…", "completion": "…"}

A file is JSON lines or one JSON array, plain or gzipped, and every row may have another shape. A row
that cannot be used is named with its place in the file and the reason, never passed over in silence.
"""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmpipe.assistant.render import Message, Role
from llmpipe.core.errors import InputError, LlmpipeError
from llmpipe.stages.sft.conversation import Conversation, part_from_json

SHARE_GPT_ROLES: dict[str, Role] = {
    "system": "system",
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "assistant": "assistant",
    "tool": "tool",
    "observation": "tool",
}


@dataclass(frozen=True)
class RowError:
    """A row that could not be used."""

    where: str
    reason: str

    def __str__(self) -> str:
        return f"{self.where}: {self.reason}"


def read_conversations(path: Path, source: str) -> tuple[list[Conversation], list[RowError]]:
    """Read all rows of a file.

    Raises:
        InputError: the file as a whole cannot be read.
    """
    conversations: list[Conversation] = []
    errors: list[RowError] = []
    for where, row in _rows(path):
        try:
            value = json.loads(row) if isinstance(row, str) else row
            conversations.append(Conversation(parse_row(value), source))
        except json.JSONDecodeError as error:
            errors.append(RowError(where, f"not JSON: {error.msg}"))
        except (ValueError, RecursionError) as error:
            errors.append(RowError(where, str(error)))
        except LlmpipeError as error:
            errors.append(RowError(where, error.message))
    return conversations, errors


def _rows(path: Path) -> Iterator[tuple[str, Any]]:
    """Yield (place, row): text for JSON lines, values for an array."""
    try:
        data = path.read_bytes()
        text = (gzip.decompress(data) if path.suffix == ".gz" else data).decode("utf-8-sig")
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise InputError(f"`{path}` cannot be read: {error}") from None
    if text.lstrip().startswith("["):
        try:
            rows = json.loads(text)
        except json.JSONDecodeError as error:
            raise InputError(f"{path}:{error.lineno}: not JSON: {error.msg}") from None
        yield from ((f"{path} item {i}", row) for i, row in enumerate(rows, start=1))
    else:
        # Not `splitlines`, which also splits at separators that may stand inside a JSON string.
        lines = enumerate(text.split("\n"), start=1)
        yield from ((f"{path}:{number}", line) for number, line in lines if line.strip())


def parse_row(row: object) -> tuple[Message, ...]:
    """Return the messages of a row of any known shape.

    Raises:
        ValueError: the row cannot be used, with the reason.
    """
    if not isinstance(row, Mapping):
        raise ValueError(f"expected an object, got {type(row).__name__}")
    if "messages" in row:
        messages = tuple(_message(item) for item in _list(row, "messages"))
    elif "conversations" in row:
        messages = tuple(_share_gpt(item) for item in _list(row, "conversations"))
    elif "instruction" in row and "output" in row:
        extra = row.get("input") or ""
        question = _text(row, "instruction") + (f"\n\n{extra}" if extra else "")
        messages = Message("user", question), Message("assistant", _text(row, "output"))
    elif "prompt" in row and "completion" in row:
        messages = (
            Message("user", _text(row, "prompt")),
            Message("assistant", _text(row, "completion")),
        )
    else:
        raise ValueError(f"no known shape among the keys {', '.join(sorted(map(str, row)))}")
    _check(messages)
    return messages


def _check(messages: tuple[Message, ...]) -> None:
    if not any(message.role == "user" and message.text.strip() for message in messages):
        raise ValueError("nobody asks anything: no user message with words")
    if not any(message.role == "assistant" for message in messages):
        raise ValueError("no message of the assistant, so nothing to train on")
    for i, message in enumerate(messages, start=1):
        if message.role == "assistant" and not any(_has_words(part) for part in message.parts):
            raise ValueError(f"message {i}: the assistant says nothing")


def _has_words(part: object) -> bool:
    return any(value.strip() for value in vars(part).values())


def _message(item: object) -> Message:
    if not isinstance(item, Mapping):
        raise ValueError(f"expected a message, got {type(item).__name__}")
    if item.get("tool_calls"):
        raise ValueError("`tool_calls` are not read; use parts of type `python` or `search`")
    content = item.get("content")
    if isinstance(content, str):
        return Message(_role(item.get("role")), content)
    if isinstance(content, list) and all(isinstance(part, Mapping) for part in content):
        return Message(_role(item.get("role")), tuple(part_from_json(part) for part in content))
    raise ValueError("a message's `content` must be a text or a list of parts")


def _role(role: object) -> Role:
    match role:
        case "system" | "user" | "assistant" | "tool":
            return role
        case _:
            raise ValueError(f"unknown role `{role}`")


def _share_gpt(item: object) -> Message:
    if not isinstance(item, Mapping):
        raise ValueError(f"expected a message, got {type(item).__name__}")
    speaker = item.get("from")
    if speaker not in SHARE_GPT_ROLES:
        raise ValueError(f"unknown speaker `{speaker}`")
    return Message(SHARE_GPT_ROLES[speaker], _text(item, "value"))


def _list(row: Mapping[str, Any], key: str) -> list[Any]:
    if not isinstance(row[key], list) or not row[key]:
        raise ValueError(f"`{key}` must be a list with messages")
    return list(row[key])


def _text(row: Mapping[str, Any], key: str) -> str:
    if not isinstance(row.get(key), str):
        raise ValueError(f"`{key}` must be a text")
    return str(row[key])
