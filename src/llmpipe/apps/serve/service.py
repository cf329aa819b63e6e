"""What the routes share: the model, what it is served with, and the checks that all of them make."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from llmpipe.apps.serve.errors import ApiError
from llmpipe.apps.serve.limits import RequestLimits
from llmpipe.apps.serve.metrics import Counters
from llmpipe.apps.serve.preferences import Preferences
from llmpipe.apps.serve.tools import ToolRunner
from llmpipe.apps.serve.worker import Worker
from llmpipe.assistant.events import ToolCall
from llmpipe.assistant.tools import ToolName
from llmpipe.tokenizer.bpe import Tokenizer


@dataclass(frozen=True)
class Service:
    """A model that is being served.

    Attributes:
        model: name that clients ask for.
        tokenizer: its own.
        worker: runs the engine.
        stop_ids: where its answers end.
        limits: on requests.
        tools: that it runs itself.
        preferences: where orders of answers are written to.
        metrics: counts.
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
        assert self.tools, "only tools that are there can be waited for"
        return await self.tools.run(call.tool, call.text)

    def head(self, prefix: str, kind: str) -> dict[str, Any]:
        """Return what every object of an answer begins with."""
        return {
            "id": f"{prefix}-{secrets.token_hex(12)}",
            "object": kind,
            "created": int(time.time()),
            "model": self.model,
        }

    def close(self) -> None:
        """End the engine and the tools."""
        self.worker.close()
        if self.tools:
            self.tools.close()

    def check_model(self, name: object) -> None:
        """Refuse a request for another model; one that names none gets this one."""
        if name is not None and name != self.model:
            raise ApiError(
                404,
                f"there is no model {json.dumps(name)} here, but `{self.model}`",
                "model_not_found",
                "model",
            )

    def check_prompt(self, ids: Sequence[int], param: str) -> None:
        """Refuse a prompt that leaves no room for an answer."""
        limit = self.worker.engine.max_len
        if len(ids) >= limit:
            message = f"the prompt has {len(ids)} tokens and the context holds {limit}"
            raise ApiError(400, message, "context_length_exceeded", param)
