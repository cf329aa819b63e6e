"""The engine in a thread of its own, and the bridge between it and the event loop.

HTTP handlers put commands (new requests, tool outputs, cancellations) into an inbox; the thread takes them
between two steps of the engine. Each token goes through its reply's state machine on the same thread, because what
that decides (to end, to wait for a tool, to put ids in) has to reach the engine before its next step. The resulting
events go to the event loop, which writes them out for the client. Nobody else touches the engine, so it needs no
locks.

A thread, because a step takes milliseconds to seconds during which an event loop would answer no one; and only one,
because a step serves all requests at once (batching): a second thread would only compete for the same processor.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import queue
import threading
import time
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from llmpipe.apps.serve.errors import ApiError, json_response
from llmpipe.apps.serve.parse import Settings
from llmpipe.assistant.events import Done, Event, ToolCall
from llmpipe.assistant.reply import Reply, room, settle
from llmpipe.core.errors import LlmpipeError
from llmpipe.inference.engine import Engine

if TYPE_CHECKING:
    from llmpipe.apps.serve.service import Service


class Worker:
    """Runs an engine for many exchanges.

    Args:
        engine: given over to the thread; nobody else may use it afterwards.
    """

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.n_generated = 0
        self.n_prompt = 0
        self.n_failures = 0
        self.n_open = 0
        """Replies being written or waiting, as the event loop sees it."""
        self._inbox: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._rows: dict[int, tuple[Exchange, int]] = {}  # request -> exchange, number of the reply
        self._is_idle = True  # nothing can go on until a command comes
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._thread.start()

    def begin(self, exchange: Exchange) -> None:
        """Start to write the replies of an exchange."""
        self.n_open += len(exchange.replies)
        self._inbox.put(lambda: self._submit(exchange))

    def give(self, exchange: Exchange, i_reply: int, output: str) -> None:
        """Give a reply the tool output that it waits for."""
        self._inbox.put(lambda: self._give(exchange, i_reply, output))

    def end(self, exchange: Exchange) -> None:
        """Stop writing an exchange."""
        self.n_open -= len(exchange.replies)
        self._inbox.put(lambda: self._cancel(exchange))

    def close(self) -> None:
        """End the thread; unfinished replies get an error."""
        self._inbox.put(None)
        self._thread.join(timeout=60)

    # -- on the thread ---------------------------------------------------------------------------

    def _run(self) -> None:
        while True:
            try:
                if not self._take_commands():
                    self._fail_all("the server is shutting down")
                    return
                self._step()
            except Exception as error:  # one broken step must not end the server
                self.n_failures += 1
                self._fail_all(f"the engine failed: {type(error).__name__}")

    def _take_commands(self) -> bool:
        """Carry out the commands in the inbox; wait for one if there is nothing else to do."""
        while True:
            try:
                command = self._inbox.get(block=self._is_idle)
            except queue.Empty:
                return True
            if command is None:
                return False
            command()
            self._is_idle = False

    def _submit(self, exchange: Exchange) -> None:
        """Hand the prompts of an exchange to the engine; each is computed once for all its replies."""
        try:
            rules, tokenizer = exchange.replies[0].rules, exchange.replies[0].tokenizer
            samplings = [rules.applied_to(own, tokenizer) for own in exchange.settings.samplings]
            ends = rules.stop_ids(tokenizer), rules.pause_ids(tokenizer)
            for prompt in exchange.prompts:
                self.n_prompt += len(prompt)
                for request in self.engine.submit_group(
                    prompt, samplings, *ends, exchange.scores_prompts
                ):
                    self._rows[request] = (exchange, len(exchange.requests))
                    exchange.requests.append(request)
        except LlmpipeError as error:
            self._fail(exchange, error)
        except Exception as error:  # one strange request must not end the server
            self.n_failures += 1
            self._fail(exchange, RuntimeError(f"the engine refused: {type(error).__name__}"))

    def _step(self) -> None:
        """Let the engine write one token of each reply, and pass the events on."""
        tokens = self.engine.step()
        self._is_idle = not tokens
        for token in tokens:
            self.n_generated += 1
            push = partial(Reply.push, token=token, room=room(self.engine, token))
            self._advance(token.request, push)

    def _give(self, exchange: Exchange, i_reply: int, output: str) -> None:
        request = exchange.requests[i_reply]
        if request in self._rows:  # else its client has gone while the tool ran
            give = partial(Reply.give, output=output, room=self.engine.room(request))
            self._advance(request, give)

    def _advance(self, request: int, move: Callable[[Reply], list[Event]]) -> None:
        """Let a reply take a token or an output, settle its row, and tell the event loop."""
        exchange, i_reply = self._rows[request]
        reply = exchange.replies[i_reply]
        try:
            events = move(reply)
            settle(self.engine, request, reply)
        except Exception as error:  # one strange reply must not end the others
            self.n_failures += 1
            self._fail(exchange, RuntimeError(f"the reply failed: {type(error).__name__}"))
            return
        if reply.done:
            del self._rows[request]
        exchange.deliver((i_reply, events))

    def _cancel(self, exchange: Exchange) -> None:
        for request in exchange.requests:
            if self._rows.pop(request, None):
                self.engine.cancel(request)

    def _fail(self, exchange: Exchange, error: BaseException) -> None:
        self._cancel(exchange)
        exchange.deliver(error)

    def _fail_all(self, message: str) -> None:
        while self._rows:
            exchange, _ = next(iter(self._rows.values()))
            self._fail(exchange, RuntimeError(message))


class Shape(Protocol):
    """Turns the events of replies into the JSON of one kind of request."""

    def chunks(self, i_reply: int, events: Sequence[Event]) -> list[dict[str, Any]]:
        """Note what has happened in a reply; return the entries of `choices` to stream for it."""
        ...

    def choice(self, i_reply: int) -> dict[str, Any]:
        """Return a finished reply's entry in `choices`."""
        ...


class Exchange:
    """One HTTP request on the event loop's side: all its replies while they are written.

    Args:
        replies: empty ones with the same rules: one per sampling, for each prompt in turn.
        given: what has happened in each reply before its first token.
        scores_prompts: whether the prompts' log-probabilities are wanted.
    """

    def __init__(
        self,
        service: Service,
        settings: Settings,
        prompts: Sequence[Sequence[int]],
        replies: Sequence[Reply],
        given: Sequence[Sequence[Event]] = (),
        scores_prompts: bool = False,
    ) -> None:
        self.settings, self.prompts, self.replies = settings, prompts, replies
        self.scores_prompts = scores_prompts
        self._service, self._given = service, given
        self._loop = asyncio.get_running_loop()
        self._items: asyncio.Queue[tuple[int, list[Event]] | BaseException] = asyncio.Queue()
        self._running: set[asyncio.Task[None]] = set()
        self.requests: list[int] = []
        """The engine's number of each reply's request; touched by the thread alone."""

    def deliver(self, item: tuple[int, list[Event]] | BaseException) -> None:
        """Hand something to the event loop (from the thread)."""
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            self._loop.call_soon_threadsafe(self._items.put_nowait, item)

    async def respond(
        self, request: Request, head: dict[str, Any], shape: Shape, extra: Mapping[str, Any]
    ) -> Response:
        """Return the answer, streamed if the client wants that.

        Args:
            request: its connection, when it closes, ends the work.
            head: fields of every object sent.
            shape: turns events into `choices`.
            extra: fields of the whole answer, or of the first event.
        """
        headers = {}
        if self.settings.ignored:
            headers["x-llmpipe-ignored"] = ascii(", ".join(self.settings.ignored))[1:-1][:1000]
        if not self.settings.stream:
            await self._finish_or_leave(request, shape)
            choices = [shape.choice(i) for i in range(len(self.replies))]
            whole = head | {"choices": choices, "usage": self._usage()} | dict(extra)
            return json_response(whole, headers=headers)
        chunks = self._chunks(shape)
        # The first chunk is waited for: errors up to here still have a status.
        try:
            first = await anext(chunks)
        except BaseException:
            await chunks.aclose()
            raise
        with_usage = self.settings.include_usage

        async def server_sent() -> AsyncGenerator[str, None]:
            """Yield the lines of the stream; closing this (the client has gone) ends the work."""
            every = head | ({"usage": None} if with_usage else {})
            async with contextlib.aclosing(chunks):
                try:
                    yield _event(every | {"choices": [first]} | dict(extra))
                    async for chunk in chunks:
                        yield _event(every | {"choices": [chunk]})
                except ApiError as error:
                    yield _event(error.body())
                    return
                if with_usage:
                    yield _event(every | {"choices": [], "usage": self._usage()})
                yield "data: [DONE]\n\n"

        headers |= {"cache-control": "no-store"}
        return StreamingResponse(server_sent(), headers=headers, media_type="text/event-stream")

    async def _chunks(self, shape: Shape) -> AsyncGenerator[dict[str, Any], None]:
        """Yield the `choices` of events as replies are written, until all of them have ended.

        Raises:
            ApiError: if the queue is full, the time is over, or the engine refuses or fails.
        """
        worker, limits = self._service.worker, self._service.limits
        n_left = len(self.replies)
        if worker.n_open + n_left > limits.max_requests:
            raise ApiError(429, "too many requests are waiting", "queue_full")
        started, is_first = time.monotonic(), True
        worker.begin(self)
        try:
            async with asyncio.timeout(limits.answer_timeout_s):
                while n_left:
                    item = await self._items.get()
                    if isinstance(item, BaseException):
                        raise item
                    items = [item]
                    if is_first:
                        self._service.metrics.first_token(time.monotonic() - started)
                        items = [*((i, list(given)) for i, given in enumerate(self._given)), item]
                        is_first = False
                    for i_reply, events in items:
                        for chunk in shape.chunks(i_reply, events):
                            yield chunk
                    n_left -= self._follow(*item)
        except TimeoutError:
            raise ApiError(504, f"no answer within {limits.answer_timeout_s:g} s") from None
        except LlmpipeError as error:
            raise ApiError(400, str(error)) from None
        except RuntimeError as error:
            raise ApiError(500, str(error)) from None
        finally:
            for task in self._running:
                task.cancel()
            worker.end(self)

    def _follow(self, i_reply: int, events: Sequence[Event]) -> bool:
        """Return whether a reply has ended with these events; if not, run the tool that it calls."""
        if events and isinstance(events[-1], Done):
            return True
        for event in events:
            if isinstance(event, ToolCall):
                task = asyncio.create_task(self._run_tool(i_reply, event))
                self._running.add(task)
                task.add_done_callback(self._running.discard)
        return False

    async def _run_tool(self, i_reply: int, call: ToolCall) -> None:
        output = await self._service.run_tool(call)
        self._service.worker.give(self, i_reply, output)

    def _usage(self) -> dict[str, int]:
        """Count tokens as OpenAI does: each prompt once, all answers."""
        n_prompt = sum(map(len, self.prompts))
        n_answer = sum(reply.n_sampled for reply in self.replies)
        return {
            "prompt_tokens": n_prompt,
            "completion_tokens": n_answer,
            "total_tokens": n_prompt + n_answer,
        }

    async def _finish_or_leave(self, request: Request, shape: Shape) -> None:
        """Write the whole answer, unless the client leaves first."""

        async def work() -> None:
            async with contextlib.aclosing(self._chunks(shape)) as chunks:
                async for _ in chunks:
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


def _event(value: Any) -> str:
    return f"data: {json.dumps(value)}\n\n"
