"""How the assistant is told which tools it has: a line in the system message.

    Tools: python, search.      these may be called, and no others
    Tools: none.                none may be called

Without such a line the assistant uses what it was trained with. The line is words like any others;
that it is obeyed is learned from conversations with and without it (`stages/sft/generators`).
"""

from __future__ import annotations

from collections.abc import Sequence

from llmpipe.assistant.render import Message


def tool_line(names: Sequence[str]) -> str:
    """Write the line that lists `names`."""
    return f"Tools: {', '.join(names) or 'none'}."


def with_tool_list(messages: Sequence[Message], names: Sequence[str]) -> list[Message]:
    """Put the list of tools behind the words of the system message, which is made if there is none."""
    messages = list(messages)
    words = ""
    if messages and messages[0].role == "system":
        words = messages.pop(0).text.rstrip() + "\n"
    return [Message("system", words + tool_line(names)), *messages]
