"""What the routes share: the model, its tools, the counters, and the checks that all of them make."""

from __future__ import annotations

import asyncio
import contextlib
import json
import secrets
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

from llmpipe.apps.serve.errors import ApiError
from llmpipe.apps.serve.parse import RequestLimits
from llmpipe.apps.serve.preferences import Preferences
from llmpipe.apps.serve.worker import Worker
from llmpipe.assistant.events import ToolCall
from llmpipe.assistant.tools import Tool, ToolName
from llmpipe.tokenizer.bpe import Tokenizer

N_THREADS = 4
"""Tools running at the same time; a tool that takes its whole time limit blocks one of them."""

SHARED: tuple[ToolName, ...] = ("search",)
"""Tools of which one serves all calls: an index is large, and several threads can read it."""

Opened = AbstractContextManager[Mapping[ToolName, Tool]]


class ToolRunner:
    """Runs the server's own tools on threads, while the engine continues with other answers.

    A sandbox does one thing at a time, so each running call has one to itself; it is kept for the
    next calls.

    Args:
        open_tools: opens the named tools, for as long as the context lasts; called on a thread.
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
        """Return a tool's output; a failure is an output, too."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads, self._run, name, text)

    def close(self) -> None:
        """Wait for running calls, then close the tools."""
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


class Counters:
    """What has happened since the start, for Prometheus; touched by the event loop alone.

    Counts hold no text and no address of any client.
    """

    def __init__(self) -> None:
        self._requests: Counter[tuple[str, int]] = Counter()
        self._first_token_s = 0.0
        self._n_first_tokens = 0

    def request(self, route: str, status: int) -> None:
        """Count an answered request."""
        self._requests[route, status] += 1

    def first_token(self, seconds: float) -> None:
        """Note how long a first token took."""
        self._first_token_s += seconds
        self._n_first_tokens += 1

    def text(self, worker: Worker) -> str:
        """Return everything in Prometheus' text format."""
        lines = ["# TYPE llmpipe_requests_total counter"]
        for (route, status), n in sorted(self._requests.items()):
            lines.append(f'llmpipe_requests_total{{route="{route}",status="{status}"}} {n}')
        engine = worker.engine
        for name, kind, value in (
            ("prompt_tokens_total", "counter", worker.n_prompt),
            ("generated_tokens_total", "counter", worker.n_generated),
            ("engine_failures_total", "counter", worker.n_failures),
            ("open_answers", "gauge", worker.n_open),
            ("engine_requests", "gauge", engine.n_requests),
            ("free_slots", "gauge", engine.n_free_slots),
        ):
            lines += [f"# TYPE llmpipe_{name} {kind}", f"llmpipe_{name} {value}"]
        lines += [
            "# TYPE llmpipe_first_token_seconds summary",
            f"llmpipe_first_token_seconds_sum {self._first_token_s:.6f}",
            f"llmpipe_first_token_seconds_count {self._n_first_tokens}",
        ]
        return "\n".join(lines) + "\n"


@dataclass(frozen=True)
class Service:
    """A model that is being served.

    Attributes:
        model: the name that clients ask for.
        stop_ids: where its answers end.
        created: seconds since 1970, as OpenAI's API wants it.
    """

    model: str
    tokenizer: Tokenizer
    worker: Worker
    stop_ids: tuple[int, ...]
    limits: RequestLimits
    tools: ToolRunner | None = None
    preferences: Preferences | None = None
    metrics: Counters = field(default_factory=Counters)
    created: int = field(default_factory=lambda: int(time.time()))

    @property
    def tool_names(self) -> tuple[ToolName, ...]:
        """Tools that it runs itself."""
        return self.tools.names if self.tools else ()

    async def run_tool(self, call: ToolCall) -> str:
        """Run a tool; return its output."""
        assert self.tools, "a reply waits for the tools of its rules only"
        return await self.tools.run(call.tool, call.text)

    def head(self, prefix: str, kind: str) -> dict[str, Any]:
        """Return what every object of an answer begins with."""
        id = f"{prefix}-{secrets.token_hex(12)}"
        return {"id": id, "object": kind, "created": int(time.time()), "model": self.model}

    def close(self) -> None:
        """End the engine and the tools."""
        self.worker.close()
        if self.tools:
            self.tools.close()

    def check_model(self, name: object) -> None:
        """Refuse a request for another model; one that names none gets this one."""
        if name is not None and name != self.model:
            message = f"there is no model {json.dumps(name)} here, but `{self.model}`"
            raise ApiError(404, message, "model_not_found", "model")

    def check_prompt(self, ids: Sequence[int], param: str) -> None:
        """Refuse a prompt that leaves no room for an answer."""
        limit = self.worker.engine.max_len
        if len(ids) >= limit:
            message = f"the prompt has {len(ids)} tokens and the context holds {limit}"
            raise ApiError(400, message, "context_length_exceeded", param)
