"""What the routes share: the model, and one way from a request to an answer, streamed or whole."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from llmpipe.apps.serve.choice import Choice, Piece
from llmpipe.apps.serve.errors import ApiError, json_response
from llmpipe.apps.serve.limits import Limits
from llmpipe.apps.serve.metrics import Metrics
from llmpipe.apps.serve.parse import Common
from llmpipe.apps.serve.preferences import Preferences
from llmpipe.apps.serve.tools import MAX_OUTPUT_TOKENS, ToolRunner
from llmpipe.apps.serve.worker import Forced, Item, Job, Task, Worker
from llmpipe.assistant.reply import output_ids
from llmpipe.assistant.tools import ToolName
from llmpipe.core.errors import LlmpipeError
from llmpipe.inference.engine import LogProb, Token
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
    limits: Limits
    tools: ToolRunner | None = None
    preferences: Preferences | None = None
    metrics: Metrics = field(default_factory=Metrics)
    created: int = field(default_factory=lambda: int(time.time()))

    @property
    def tool_names(self) -> tuple[ToolName, ...]:
        """Tools that it runs itself."""
        return self.tools.names if self.tools else ()

    async def run_tool(self, name: ToolName, text: str) -> list[int]:
        """Run a tool; return its output as ids, ready to be put into an answer."""
        assert self.tools, "only tools that are there can be waited for"
        output = await self.tools.run(name, text)
        return output_ids(output, self.tokenizer, MAX_OUTPUT_TOKENS)

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

    async def read_body(self, request: Request) -> bytes:
        """Read a request's body within the limits on its size and time."""
        limit = self.limits.max_body_bytes
        too_large = ApiError(413, f"the body is larger than {limit} bytes", "body_too_large")
        stated = request.headers.get("content-length", "0")
        if not stated.isascii() or not stated.isdigit() or int(stated) > limit:
            raise too_large
        data = bytearray()
        try:
            async with asyncio.timeout(self.limits.body_timeout_s):
                async for part in request.stream():
                    data += part
                    if len(data) > limit:
                        raise too_large
        except TimeoutError:
            seconds = f"{self.limits.body_timeout_s:g} s"
            raise ApiError(408, f"the body did not come within {seconds}") from None
        return bytes(data)


@dataclass
class Answer:
    """All choices of one HTTP request while they are being written.

    Attributes:
        kind: names the metrics: `chat` or `completions`.
        tasks: for the worker.
        choices: one per answer, in the worker's numbering.
        prompt_logprobs: of each choice's prompt, where they were asked for.
    """

    service: Service
    kind: str
    common: Common
    tasks: list[Task]
    choices: list[Choice]
    prompt_logprobs: dict[int, tuple[LogProb, ...]] = field(default_factory=dict)

    async def pieces(self) -> AsyncGenerator[tuple[int, Piece], None]:
        """Yield what comes, each with its choice's number, until all choices have ended.

        Raises:
            ApiError: if the queue is full, the time is over, or the engine refuses or fails.
        """
        worker, limits = self.service.worker, self.service.limits
        if worker.n_open + len(self.choices) > limits.max_requests:
            raise ApiError(429, "too many requests are waiting", "queue_full", retry_after_s=1)
        started = time.monotonic()
        n_left, is_first = len(self.choices), True
        job = worker.new_job()
        running: set[asyncio.Task[None]] = set()
        try:
            async with (
                asyncio.timeout(limits.answer_timeout_s),
                contextlib.aclosing(worker.answer(job, self.tasks)) as items,
            ):
                async for i, item in items:
                    if is_first:
                        self.service.metrics.first_token(time.monotonic() - started)
                        is_first = False
                        for k, choice in enumerate(self.choices):
                            for piece in choice.given:
                                yield k, piece
                    choice = self.choices[i]
                    if choice.finish_reason:
                        continue
                    yield i, self._push(i, item)
                    if choice.finish_reason:
                        n_left -= 1
                        worker.drop(job, i)  # where a stop string has ended it
                    elif isinstance(item, Token) and item.is_paused:
                        task = asyncio.create_task(self._go_on(job, i))
                        running.add(task)
                        task.add_done_callback(running.discard)
                    if not n_left:
                        return
        except TimeoutError:
            raise ApiError(504, f"no answer within {limits.answer_timeout_s:g} s") from None
        except LlmpipeError as error:
            raise ApiError(400, str(error)) from None
        except RuntimeError as error:
            raise ApiError(500, str(error)) from None
        finally:
            for task in running:
                task.cancel()

    def _push(self, i: int, item: Item) -> Piece:
        choice = self.choices[i]
        if isinstance(item, Forced):
            return choice.push_output(item.ids, item.is_over)
        if item.prompt_logprobs is not None:
            self.prompt_logprobs[i] = item.prompt_logprobs
        return choice.push(item)

    async def _go_on(self, job: Job, i: int) -> None:
        """Give an answer that has paused what it waits for."""
        call = self.choices[i].waits_for
        # A closing token that closes nothing pauses, too: there is nothing to put in.
        ids = await self.service.run_tool(*call) if call else []
        self.service.worker.force(job, i, ids)

    def usage(self) -> dict[str, int]:
        """Count tokens as OpenAI does: each prompt once, all answers."""
        n_prompt = sum(len(task.prompt) for task in self.tasks)
        n_answer = sum(choice.n_tokens for choice in self.choices)
        return {
            "prompt_tokens": n_prompt,
            "completion_tokens": n_answer,
            "total_tokens": n_prompt + n_answer,
        }

    async def respond(
        self,
        request: Request,
        head: dict[str, Any],
        whole: Callable[[Answer], list[dict[str, Any]]],
        chunks: Callable[[Answer, int, Piece], list[dict[str, Any]]],
        extra: Mapping[str, Any] | None = None,
    ) -> Response:
        """Return the answer, streamed if that was asked for.

        Args:
            request: whose connection ends the work when it closes.
            head: fields of every object sent.
            whole: makes `choices` of the finished answer.
            chunks: makes the `choices` of the events that a piece becomes.
            extra: fields of the whole answer, or of the first event.
        """
        headers = {}
        if self.common.ignored:
            headers["x-llmpipe-ignored"] = ascii(", ".join(self.common.ignored))[1:-1][:1000]
        if not self.common.stream:
            await self._finish_or_leave(request)
            return json_response(
                head | {"choices": whole(self), "usage": self.usage(), **(extra or {})},
                headers=headers,
            )
        pieces = self.pieces()
        # The first piece is waited for: errors up to here still have a status.
        try:
            first = await anext(pieces)
        except BaseException:
            await pieces.aclose()
            raise
        events = self._events(first, pieces, head, chunks, extra or {})
        headers |= {"cache-control": "no-store"}
        return StreamingResponse(events, headers=headers, media_type="text/event-stream")

    async def _finish_or_leave(self, request: Request) -> None:
        """Write the whole answer, unless the client goes away before."""

        async def work() -> None:
            async with contextlib.aclosing(self.pieces()) as pieces:
                async for _ in pieces:
                    pass

        async def wait_for_leaving() -> None:
            while (await request.receive())["type"] != "http.disconnect":
                pass

        working = asyncio.create_task(work())
        leaving = asyncio.create_task(wait_for_leaving())
        try:
            await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
            if not working.done():
                raise ApiError(499, "the client has gone")
            working.result()
        finally:
            for task in (working, leaving):
                task.cancel()
            await asyncio.gather(working, leaving, return_exceptions=True)

    async def _events(
        self,
        first: tuple[int, Piece],
        pieces: AsyncGenerator[tuple[int, Piece], None],
        head: dict[str, Any],
        chunks: Callable[[Answer, int, Piece], list[dict[str, Any]]],
        once: Mapping[str, Any],
    ) -> AsyncIterator[str]:
        """Yield server-sent events; closing this (the client has gone) ends the work."""
        extra = {"usage": None} if self.common.include_usage else {}
        async with contextlib.aclosing(pieces):
            try:
                for choice in chunks(self, *first):
                    yield _event(head | {"choices": [choice]} | extra | dict(once))
                    once = {}
                async for i, piece in pieces:
                    for choice in chunks(self, i, piece):
                        yield _event(head | {"choices": [choice]} | extra)
            except ApiError as error:
                yield _event(error.body())
                return
            if self.common.include_usage:
                yield _event(head | {"choices": [], "usage": self.usage()})
            yield "data: [DONE]\n\n"


def _event(value: Any) -> str:
    return f"data: {json.dumps(value)}\n\n"
