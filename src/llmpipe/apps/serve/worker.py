"""The engine in a thread of its own, and the bridge between it and the event loop.

HTTP handlers put commands (new requests, cancellations) into an inbox; the thread takes them between two
steps and hands each token to the event loop of the request it belongs to. Nobody else touches the
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

MIN_FORCED = 3  # a tool's output: two control tokens and one of text


@dataclass(frozen=True)
class Task:
    """One prompt and the answers wanted for it.

    Attributes:
        prompt: ids.
        samplings: one per answer.
        stop_ids: that end an answer.
        pause_ids: after which an answer waits for `Worker.force`.
        prompt_logprobs: whether the prompt's log-probabilities are wanted.
    """

    prompt: Sequence[int]
    samplings: Sequence[Sampling]
    stop_ids: Sequence[int]
    pause_ids: Sequence[int] = ()
    prompt_logprobs: bool = False


@dataclass(frozen=True)
class Forced:
    """Ids were put into an answer.

    Attributes:
        ids: as many as there was room for.
        is_over: there was no room, and the answer has ended.
    """

    ids: Sequence[int]
    is_over: bool = False


Item = Token | Forced


@dataclass
class Job:
    """The answers to one HTTP request, numbered over all of its prompts."""

    loop: asyncio.AbstractEventLoop
    items: asyncio.Queue[tuple[int, Item] | BaseException] = field(default_factory=asyncio.Queue)
    requests: list[int] = field(default_factory=list)
    """The engine's number of each answer's request; touched by the thread alone."""

    def deliver(self, item: tuple[int, Item] | BaseException) -> None:
        """Hand something to the event loop (from the thread)."""
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            self.loop.call_soon_threadsafe(self.items.put_nowait, item)


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
        self._jobs: dict[int, tuple[Job, int]] = {}  # request -> job, number of the answer
        self._is_idle = True  # nothing can go on until a command comes
        self._n_open = 0  # answers asked for and not ended, as the event loop sees it
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._thread.start()

    @property
    def n_open(self) -> int:
        """Answers being written or waiting."""
        return self._n_open

    def new_job(self) -> Job:
        """Return a job for the running event loop."""
        return Job(asyncio.get_running_loop())

    async def answer(
        self, job: Job, tasks: Sequence[Task]
    ) -> AsyncGenerator[tuple[int, Item], None]:
        """Yield what comes into all answers as it comes, each with its answer's number.

        Closing the iterator cancels what is unfinished.

        Raises:
            LlmpipeError: if the engine refuses a prompt.
            RuntimeError: if the engine fails.
        """
        n_choices = sum(len(task.samplings) for task in tasks)
        self._n_open += n_choices
        n_left = n_choices
        self._inbox.put(lambda: self._submit(job, tasks))
        try:
            while n_left:
                item = await job.items.get()
                if isinstance(item, BaseException):
                    raise item
                n_left -= _is_last(item[1])
                yield item
        finally:
            self._n_open -= n_choices
            if n_left:
                self._inbox.put(lambda: self._cancel(job))

    def force(self, job: Job, i_answer: int, ids: Sequence[int]) -> None:
        """Put ids into an answer that waits for them, and let it go on.

        They are cut to the room in the context, all but the last one. Without room for `MIN_FORCED` of
        them the answer ends. What was put in comes as `Forced`.
        """
        self._inbox.put(lambda: self._force(job, i_answer, ids))

    def drop(self, job: Job, i_answer: int) -> None:
        """Write no more of one answer."""
        self._inbox.put(lambda: self._drop(job.requests[i_answer]))

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
                tokens = []
            self._is_idle = not tokens
            for token in tokens:
                self._deliver(token)

    def _take_commands(self) -> bool:
        """Carry out what is in the inbox, waiting for something if there is nothing else to do."""
        while True:
            try:
                command = self._inbox.get(block=self._is_idle)
            except queue.Empty:
                return True
            if command is None:
                return False
            command()
            self._is_idle = False

    def _submit(self, job: Job, tasks: Sequence[Task]) -> None:
        try:
            for task in tasks:
                self.n_prompt += len(task.prompt)
                for request in self._submit_task(task):
                    self._jobs[request] = (job, len(job.requests))
                    job.requests.append(request)
        except LlmpipeError as error:
            self._cancel(job)
            job.deliver(error)
        except Exception as error:  # one strange request must not end the server
            self.n_failures += 1
            self._cancel(job)
            job.deliver(RuntimeError(f"the engine refused: {type(error).__name__}"))

    def _submit_task(self, task: Task) -> list[int]:
        engine, stops, pauses = self.engine, task.stop_ids, task.pause_ids
        if not task.prompt_logprobs:
            return engine.submit_group(task.prompt, task.samplings, stops, pauses)
        return [
            engine.submit(task.prompt, own, stops, pauses, prompt_logprobs=True)
            for own in task.samplings
        ]

    def _force(self, job: Job, i_answer: int, ids: Sequence[int]) -> None:
        request = job.requests[i_answer]
        if request not in self._jobs:  # its client has gone while the tool ran
            return
        room = self.engine.room(request)
        if ids and room < MIN_FORCED:
            self._drop(request)
            job.deliver((i_answer, Forced((), is_over=True)))
            return
        if len(ids) > room:
            ids = [*ids[: room - 1], ids[-1]]
        self.engine.feed(request, ids)
        job.deliver((i_answer, Forced(ids)))

    def _deliver(self, token: Token) -> None:
        self.n_generated += 1
        job, i_answer = self._jobs[token.request]
        job.deliver((i_answer, token))
        if token.reason:
            del self._jobs[token.request]

    def _cancel(self, job: Job) -> None:
        for request in job.requests:
            self._drop(request)

    def _drop(self, request: int) -> None:
        if self._jobs.pop(request, None):
            self.engine.cancel(request)

    def _fail(self, error: BaseException) -> None:
        for request, (job, _) in list(self._jobs.items()):
            self.engine.cancel(request)
            job.deliver(error)
        self._jobs.clear()


def _is_last(item: Item) -> bool:
    return item.is_over if isinstance(item, Forced) else item.reason is not None
