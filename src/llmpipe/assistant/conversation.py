"""One conversation with where it came from, and its JSON form.

The JSON form is the common `messages` shape. An assistant's message with tool calls has a list of
parts as content, so that what is written here can be read back by `stages/sft/sources.py`:

    {"source": "arithmetic", "messages": [
      {"role": "user", "content": "What is 37 + 45?"},
      {"role": "assistant", "content": [
        {"type": "python", "text": "37+45"}, {"type": "output", "text": "82"},
        {"type": "text", "text": "37 + 45 is 82."}]}]}
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from llmpipe.assistant.render import Message, Part, Text, Thought, ToolOutput
from llmpipe.assistant.tool_list import TOOLS

PART_TYPES: dict[str, Callable[[str], Part]] = {
    "text": Text,
    **{name: form.part for name, form in TOOLS.items()},
    "output": ToolOutput,
    "thought": Thought,
}
"""The parts of a message, by their type in JSON; each is made of one text."""
_TYPE_NAMES = {part_type: name for name, part_type in PART_TYPES.items()}


@dataclass(frozen=True)
class Conversation:
    """Messages in order, and the source they came from."""

    messages: tuple[Message, ...]
    source: str

    def to_json(self) -> str:
        """Return the conversation as one line of JSON."""
        messages = [
            {"role": m.role, "content": _content_to_json(m)}
            | ({} if m.is_trained else {"loss_weight": 0})
            for m in self.messages
        ]
        return json.dumps({"source": self.source, "messages": messages}, ensure_ascii=False)


def ask(
    question: str, answer: str | tuple[Part, ...], source: str, system: str | None = None
) -> Conversation:
    """Return the conversation of one question and one answer."""
    before = () if system is None else (Message("system", system),)
    return Conversation((*before, Message("user", question), Message("assistant", answer)), source)


def messages_from_json(row: Mapping[str, Any]) -> list[Message]:
    """Return the messages of a row that `Conversation.to_json` has written.

    Raises:
        ValueError: a content is neither a text nor a list of known parts.
        KeyError: a message lacks its role or its content.
    """
    messages = []
    for item in row["messages"]:
        content = item["content"]
        if isinstance(content, list):
            content = [part_from_json(part) for part in content]
        elif not isinstance(content, str):
            kind = type(content).__name__
            raise ValueError(f"content is {kind} and must be a string or a list of parts")
        messages.append(Message(item["role"], content, item.get("loss_weight") != 0))
    return messages


def forget_oldest(messages: list[Message], fits: Callable[[], bool]) -> int:
    """Drop whole turns from the front until the rest fits; return how many messages went.

    The last message stays, and what is left begins with a user's message: a model has never seen an
    answer without its question.
    """
    n = len(messages)
    while len(messages) > 1 and not fits():
        del messages[0]
        while len(messages) > 1 and messages[0].role != "user":
            del messages[0]
    return n - len(messages)


def part_from_json(part: Mapping[str, Any]) -> Part:
    """Return a part of a message.

    Raises:
        ValueError: the type of the part is not known, or its text is missing.
    """
    kind, text = part.get("type"), part.get("text", part.get("value"))
    if kind not in PART_TYPES:
        raise ValueError(f"unknown type of part `{kind}`, expected {', '.join(PART_TYPES)}")
    if not isinstance(text, str):
        raise ValueError(f"a part of type `{kind}` has no text")
    return PART_TYPES[kind](text)


def _content_to_json(message: Message) -> str | list[dict[str, str]]:
    parts = message.parts
    if len(parts) == 1 and isinstance(parts[0], Text):
        return parts[0].text
    # Each part has one field, whatever it is called.
    return [
        {"type": _TYPE_NAMES[type(part)], "text": words}
        for part in parts
        for words in vars(part).values()
    ]
