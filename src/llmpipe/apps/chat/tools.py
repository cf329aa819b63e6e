"""Which tools a chat has: those asked for, or those that this model and this machine allow."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from llmpipe.assistant.tools import Tool, ToolName, open_tools, parse_tool_names
from llmpipe.assistant.tools.policy import examine_kernel
from llmpipe.core.console import Console
from llmpipe.core.errors import UserError


@dataclass(frozen=True)
class ToolOptions:
    """What the command line says about tools.

    Attributes:
        names: joined by commas, or `none`; None takes those that can be had.
        corpus: what `search` looks through; the corpus of the model's run by default.
        search_url: of an HTTP service that `search` asks instead.
        search_hosts: hosts it may be on, besides loopback.
        unsafe: run Python programs without a sandbox.
    """

    names: str | None = None
    corpus: Path | None = None
    search_url: str | None = None
    search_hosts: tuple[str, ...] = ()
    unsafe: bool = False


def open_chat_tools(
    options: ToolOptions, model_folder: Path, console: Console
) -> AbstractContextManager[Mapping[ToolName, Tool]]:
    """Open the tools of a chat with the model in `model_folder`.

    Raises:
        UserError: if a tool was asked for that cannot be had.
    """
    own_corpus = model_folder.resolve().parent / "corpus"
    corpus = options.corpus
    if corpus is None and (own_corpus / "manifest.json").is_file():
        corpus = own_corpus
    if options.names is None:
        names: Sequence[ToolName] = ("python",)
        if not options.unsafe and not examine_kernel().has_seccomp:
            console.info("no python tool: this system has no sandbox for it")
            names = ()
        if corpus is not None or options.search_url is not None:
            names = (*names, "search")
    else:
        names = parse_tool_names(options.names)
        if (options.corpus or options.search_url) and "search" not in names:
            raise UserError("something to search is named, and the tool `search` is not")
    return open_tools(
        names,
        corpus,
        search_url=options.search_url,
        search_hosts=options.search_hosts,
        unsafe=options.unsafe,
    )
