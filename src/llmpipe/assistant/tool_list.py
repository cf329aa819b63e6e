"""The tools an assistant can call, in one table, and how it is told which of them it has.

A call is text between two control tokens. Everything else that has to know a tool by name is made from
`TOOLS`: where a reply waits, what OpenAI's API calls the argument, what the command line offers.

A line of the system message names the tools:

    Tools: python, search.      these may be called, and no others
    Tools: none.                none may be called

Without such a line the assistant uses what it was trained with. The line is text like any other;
the model learns to obey it from conversations with and without it (`stages/sft/generators`).
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from llmpipe.assistant.render import Message, Part, PythonCall, SearchCall
from llmpipe.assistant.tools import ToolName, tool_line
from llmpipe.tokenizer.special import PYTHON_END, PYTHON_START, SEARCH_END, SEARCH_START


@dataclass(frozen=True)
class ToolForm:
    """How a call of one tool is written."""

    part: type[PythonCall] | type[SearchCall]
    """The call as a part of a message."""
    argument: str
    """Name of its one argument: of the part's field, and in OpenAI's API."""
    start: str
    """Control token that a call begins with."""
    end: str
    """Control token that ends it; the model then waits for the tool's output."""


TOOLS: dict[ToolName, ToolForm] = {
    "python": ToolForm(PythonCall, "code", PYTHON_START, PYTHON_END),
    "search": ToolForm(SearchCall, "query", SEARCH_START, SEARCH_END),
}


def called(part: Part) -> tuple[ToolName, str] | None:
    """Return the tool that a part calls and what it is given; None for what is no call."""
    for name, form in TOOLS.items():
        if isinstance(part, form.part):
            return name, getattr(part, form.argument)
    return None


def signatures() -> str:
    """Write the tools as functions: `python(code), search(query)`."""
    return ", ".join(f"{name}({form.argument})" for name, form in TOOLS.items())


def with_tool_list(messages: Sequence[Message], names: Collection[str]) -> list[Message]:
    """Put the list of tools behind the words of the system message, which is made if there is none."""
    messages = list(messages)
    words = ""
    if messages and messages[0].role == "system":
        words = messages.pop(0).text.rstrip() + "\n"
    return [Message("system", words + tool_line(names)), *messages]
