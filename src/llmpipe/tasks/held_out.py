"""Conversations that the maker of an assistant has kept back for its examiners."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from llmpipe.tasks.base import AssistantFacts


@dataclass(frozen=True)
class HeldOut:
    """The first question of a conversation and its answer."""

    source: str
    question: str
    answer: str
    """The words meant for the reader."""
    tools: tuple[str, ...]
    """What the answer calls, in order."""


def held_out_conversations(facts: AssistantFacts) -> Iterator[HeldOut]:
    """Yield the conversations of `facts.conversations`, if there are any, in order."""
    # Not at the top: the names of tasks are part of the command's help, which has to come at once.
    from llmpipe.assistant.conversation import messages_from_json
    from llmpipe.assistant.tool_list import called
    from llmpipe.core.records.lines import read_json_lines, whole

    if facts.conversations is None:
        return
    for _, row in whole(read_json_lines(facts.conversations)):
        messages = messages_from_json(row)
        asked = [m for m in messages if m.role == "user"]
        answered = [m for m in messages if m.role == "assistant"]
        if asked and answered:
            yield HeldOut(
                row.get("source", ""),
                asked[0].text,
                answered[0].text,
                tuple(call[0] for part in answered[0].parts if (call := called(part))),
            )
