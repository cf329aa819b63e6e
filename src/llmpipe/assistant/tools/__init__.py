"""Tools that run while the assistant writes: text in, text out."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal, Protocol, get_args

from llmpipe.core.errors import UserError, did_you_mean

ToolName = Literal["python", "search"]
TOOL_NAMES: tuple[ToolName, ...] = get_args(ToolName)


def tool_line(names: Collection[str]) -> str:
    """Write the line of a system message that lists `names` (`tool_list.py` says what it is for)."""
    return f"Tools: {', '.join(names) or 'none'}."


def parse_tool_names(text: str) -> tuple[ToolName, ...]:
    """Return the tools of a list such as `python,search`, in the order of the table; `none` is an empty list.

    Raises:
        UserError: if there is no tool of a name.
    """
    asked = text.replace(",", " ").split()
    for name in asked:
        if name not in (*TOOL_NAMES, "none"):
            hint = did_you_mean(name, TOOL_NAMES) or f"tools are {', '.join(TOOL_NAMES)}"
            raise UserError(f"unknown tool `{name}`", hint=hint)
    return tuple(name for name in TOOL_NAMES if name in asked)


class Tool(Protocol):
    """What a reply can call; whatever goes wrong comes back as text too."""

    def run(self, text: str) -> str:
        """Return what the tool has to say about `text`, in bounded time."""
        ...


@contextlib.contextmanager
def open_tools(
    names: Sequence[str],
    corpus: Path | None = None,
    *,
    search_url: str | None = None,
    search_hosts: Sequence[str] = (),
    unsafe: bool = False,
) -> Iterator[Mapping[ToolName, Tool]]:
    """Open tools by name for as long as the context lasts; may be called from several threads.

    The first call of each tool starts its process or opens its index, not this function.

    Args:
        names: of `python` and `search`.
        corpus: what `search` looks through: a corpus artifact, or a run that has one.
        search_url: of an HTTP service that `search` asks instead of a corpus.
        search_hosts: hosts it may be on, besides loopback.
        unsafe: run Python programs where there is nothing to build a sandbox from.

    Raises:
        UserError: if a name is unknown, there is nothing to search, or there can be no sandbox.
        InputError: if `corpus` is none.
    """
    from llmpipe.assistant.tools.python import PythonTool
    from llmpipe.assistant.tools.search import CorpusBackend, HttpBackend, SearchTool

    tools: dict[ToolName, Tool] = {}
    with contextlib.ExitStack() as open_ones:
        for name in parse_tool_names(",".join(names)):
            if name == "python":
                tools["python"] = open_ones.enter_context(PythonTool(unsafe=unsafe))
            elif search_url:
                tools["search"] = SearchTool(HttpBackend(search_url, search_hosts))
            elif corpus:
                tools["search"] = SearchTool(CorpusBackend(corpus))
            else:
                raise UserError(
                    "the tool `search` has nothing to look through",
                    hint="name a corpus, such as runs/tiny/corpus",
                )
        yield tools
