"""The server's own tools: run on threads, while the engine goes on with other answers."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager

from llmpipe.assistant.tools import Tool, ToolName

N_THREADS = 4
"""Tools running at the same time; a tool that takes its whole time limit blocks one of them."""


SHARED: tuple[ToolName, ...] = ("search",)
"""Tools of which one serves all calls: an index is large, and several threads can read it."""

Opened = AbstractContextManager[Mapping[ToolName, Tool]]


class ToolRunner:
    """Runs tools for many answers at once.

    A sandbox does one thing at a time, so each running call has one to itself; it is kept for the
    next calls.

    Args:
        open_tools: opens the named tools, for as long as the context lasts; called on a thread.
        names: of the tools.
        n_threads: calls at the same time; more wait.
    """

    def __init__(
        self,
        open_tools: Callable[[Sequence[ToolName]], Opened],
        names: tuple[ToolName, ...],
        n_threads: int = N_THREADS,
    ) -> None:
        self.names = names
        self._open_tools = open_tools
        self._open_ones = contextlib.ExitStack()
        self._lock = threading.Lock()
        self._free: dict[ToolName, list[Tool]] = {name: [] for name in names}
        self._threads = ThreadPoolExecutor(n_threads, thread_name_prefix="tool")

    async def run(self, name: ToolName, text: str) -> str:
        """Return what a tool has to say; a failure is an answer, too."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads, self._run, name, text)

    def close(self) -> None:
        """Wait for running calls and end what the tools hold."""
        self._threads.shutdown(cancel_futures=True)
        self._open_ones.close()

    def _run(self, name: ToolName, text: str) -> str:
        try:
            tool = self._take(name)
            try:
                return tool.run(text)
            finally:
                if name not in SHARED:
                    self._free[name].append(tool)
        except Exception as error:  # a broken tool must not end the answer, let alone the server
            return f"error: the tool failed: {type(error).__name__}"

    def _take(self, name: ToolName) -> Tool:
        with self._lock:
            free = self._free[name]
            if not free:
                free.append(self._open_ones.enter_context(self._open_tools([name]))[name])
            return free[0] if name in SHARED else free.pop()
