"""Conversations whose system message lists the tools, and answers that obey it.

A share of all conversations gets such a line (`assistant/tool_list.py`). In half of these the list
has what the conversation calls, and nothing changes. In the others the calls' tool is not listed,
and each answer that would have called it says that it cannot.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

from llmpipe.assistant.conversation import Conversation
from llmpipe.assistant.render import Message
from llmpipe.assistant.tool_list import called, with_tool_list
from llmpipe.assistant.tools import TOOL_NAMES, ToolName
from llmpipe.tasks.templates import load_file

WITHOUT: dict[ToolName, list[str]] = load_file("unable")["without"]


def tell_tools(
    conversations: Sequence[Conversation], frac: float, rng: random.Random
) -> list[Conversation]:
    """Put a list of tools into a share of our own conversations."""
    return [c if rng.random() >= frac else _told(c, rng) for c in conversations]


def _told(conversation: Conversation, rng: random.Random) -> Conversation:
    used = {call[0] for m in conversation.messages for p in m.parts if (call := called(p))}
    is_allowed = rng.random() < 0.5
    listed = [
        name
        for name in TOOL_NAMES
        if (is_allowed if name in used else rng.random() < 0.3)  # the other one is there or not
    ]
    messages = [_obeying(message, listed, rng) for message in conversation.messages]
    return Conversation(tuple(with_tool_list(messages, listed)), conversation.source)


def _obeying(message: Message, listed: Sequence[str], rng: random.Random) -> Message:
    for part in message.parts:
        call = called(part)
        if call and call[0] not in listed:
            return Message("assistant", rng.choice(WITHOUT[call[0]]))
    return message
