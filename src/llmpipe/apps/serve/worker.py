"""The engine in a thread of its own, and the bridge between it and the event loop.

HTTP handlers put commands (new requests, cancellations) into an inbox; the thread takes them between two
steps and hands each sampled token to the event loop of the request it belongs to. Nobody else touches the
engine, so it needs no locks.
"""

from __future__ import annotations

import asyncio
import contextlib
import queue
import threading
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass, field

from llmpipe.core.errors import LlmpipeError
from llmpipe.inference.engine import Engine, Token
from llmpipe.inference.sampling import Sampling


@dataclass(frozen=True)
class Task:
    """One prompt and the answers wanted for it.

    Attributes:
        prompt: ids.
        samplings: one per answer.
        stop_ids: that end an answer.
        prompt_logprobs: whether the prompt's log-probabilities are wanted.
    """

    prompt: Sequence[int]
    samplings: Sequence[Sampling]
    stop_ids: Sequence[int]
    prompt_logprobs: bool = False


@dataclass
class Job:
    """The answers to one HTTP request, numbered over all of its prompts."""

    loop: asyncio.AbstractEventLoop
    tokens: asyncio.Queue[tuple[int, Token] | BaseException] = field(default_factory=asyncio.Queue)
    requests: dict[int, int] = field(default_factory=dict)
    """The engine's number of a request -> number of its answer; touched by the thread alone."""

    def deliver(self, item: tuple[int, Token] | BaseException) -> None:
        """Hand something to the event loop (from the thread)."""
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            self.loop.call_soon_threadsafe(self.tokens.put_nowait, item)


class Worker:
    """Runs an engine for many jobs.

    Args:
        engine: given over to the thread; nobody else may use it afterwards.
    """

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.n_generated = 0
        self.n_prompt = 0
        self.n_failures = 0
        self._inbox: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._jobs: dict[int, Job] = {}
        self._n_open = 0  # answers asked for and not ended, as the event loop sees it
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._thread.start()

    @property
    def n_open(self) -> int:
        """Answers being written or waiting."""
        return self._n_open

    async def answer(self, tasks: Sequence[Task]) -> AsyncGenerator[tuple[int, Token], None]:
        """Yield the tokens of all answers as they come, each with its answer's number.

        Closing the iterator cancels what is unfinished.

        Raises:
            LlmpipeError: if the engine refuses a prompt.
            RuntimeError: if the engine fails.
        """
        n_choices = sum(len(task.samplings) for task in tasks)
        job = Job(asyncio.get_running_loop())
        self._n_open += n_choices
        n_left = n_choices
        self._inbox.put(lambda: self._submit(job, tasks))
        try:
            while n_left:
                item = await job.tokens.get()
                if isinstance(item, BaseException):
                    raise item
                n_left -= item[1].reason is not None
                yield item
        finally:
            self._n_open -= n_choices
            if n_left:
                self._inbox.put(lambda: self._cancel(job))

    def close(self) -> None:
        """End the thread; unfinished answers get an error."""
        self._inbox.put(None)
        self._thread.join(timeout=60)

    # -- on the thread ---------------------------------------------------------------------------

    def _run(self) -> None:
        while True:
            if not self._take_commands():
                self._fail(RuntimeError("the server is shutting down"))
                return
            try:
                tokens = self.engine.step()
            except Exception as error:  # one broken step must not end the server
                self.n_failures += 1
                self._fail(RuntimeError(f"the engine failed: {type(error).__name__}"))
                continue
            for token in tokens:
                self._deliver(token)

    def _take_commands(self) -> bool:
        """Carry out what is in the inbox, waiting for something if there is nothing else to do."""
        while True:
            try:
                command = self._inbox.get(block=not self.engine.n_requests)
            except queue.Empty:
                return True
            if command is None:
                return False
            command()

    def _submit(self, job: Job, tasks: Sequence[Task]) -> None:
        try:
            for task in tasks:
                self.n_prompt += len(task.prompt)
                for request in self._submit_task(task):
                    job.requests[request] = len(job.requests)
                    self._jobs[request] = job
        except (LlmpipeError, AssertionError) as error:
            self._cancel(job)
            job.deliver(error)

    def _submit_task(self, task: Task) -> list[int]:
        engine, stops = self.engine, task.stop_ids
        if not task.prompt_logprobs:
            return engine.submit_group(task.prompt, task.samplings, stops)
        return [
            engine.submit(task.prompt, own, stops, prompt_logprobs=True) for own in task.samplings
        ]

    def _deliver(self, token: Token) -> None:
        self.n_generated += 1
        job = self._jobs[token.request]
        job.deliver((job.requests[token.request], token))
        if token.reason:
            del self._jobs[token.request]

    def _cancel(self, job: Job) -> None:
        for request in job.requests:
            if self._jobs.pop(request, None):
                self.engine.cancel(request)

    def _fail(self, error: BaseException) -> None:
        for request, job in list(self._jobs.items()):
            self.engine.cancel(request)
            job.deliver(error)
        self._jobs.clear()
