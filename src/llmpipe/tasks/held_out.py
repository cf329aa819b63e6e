"""Conversations that the maker of an assistant has kept back for its examiners."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from llmpipe.assistant.tools import TOOL_NAMES
from llmpipe.core.records.lines import read_json_lines, whole
from llmpipe.tasks.base import Facts


@dataclass(frozen=True)
class HeldOut:
    """The first question of a conversation and its answer."""

    source: str
    question: str
    answer: str
    """The words meant for the reader."""
    tools: tuple[str, ...]
    """What the answer calls, in order."""


def held_out_conversations(facts: Facts) -> Iterator[HeldOut]:
    """Yield the conversations of `facts.conversations`, if there are any, in order."""
    if facts.conversations is None:
        return
    for _, row in whole(read_json_lines(facts.conversations)):
        asked = [m for m in row["messages"] if m["role"] == "user"]
        answered = [m for m in row["messages"] if m["role"] == "assistant"]
        if asked and answered:
            parts = _parts(answered[0])
            yield HeldOut(
                row.get("source", ""),
                _words(_parts(asked[0])),
                _words(parts),
                tuple(p["type"] for p in parts if p["type"] in TOOL_NAMES),
            )


def _parts(message: dict[str, Any]) -> list[dict[str, str]]:
    content = message["content"]
    return [{"type": "text", "text": content}] if isinstance(content, str) else content


def _words(parts: list[dict[str, str]]) -> str:
    return "".join(part["text"] for part in parts if part["type"] == "text")
