"""Replies to conversations: the engine writes, tools answer in between.

When the model closes a tool call, its row pauses; the tool runs; the result is forced into the row as
ordinary tokens between `<|output_start|>` and `<|output_end|>`; and the model writes on. That is all
there is to tool use.
"""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from llmpipe.assistant.render import Message, render
from llmpipe.assistant.reply import (
    PAUSE_TOKENS,
    Done,
    Event,
    Reason,
    Reply,
    ToolCall,
    ToolName,
    output_ids,
)
from llmpipe.assistant.tools import Tool
from llmpipe.inference.engine import Engine
from llmpipe.inference.sampling import Sampling
from llmpipe.tokenizer.bpe import Tokenizer
from llmpipe.tokenizer.special import BOS, IM_END, IM_START

Tools = Mapping[ToolName, Tool]

MAX_OUTPUT_TOKENS = 256
"""Of one tool output, so that a single call cannot fill the context."""

_MIN_OUTPUT_TOKENS = 3  # the two control tokens and one of text


@dataclass(frozen=True)
class Answer:
    """A finished reply: its message, the ids of the turn, and how it ended."""

    message: Message
    ids: list[int]
    done: Done


def stream_reply(
    engine: Engine,
    tokenizer: Tokenizer,
    messages: Sequence[Message],
    sampling: Sampling,
    tools: Tools,
    reply: Reply | None = None,
) -> Generator[Event, None, None]:
    """Yield the reply to a conversation as it is written; the last event is `Done`.

    Closing the generator ends the request and frees its slot.

    Args:
        engine: has no other requests.
        tokenizer: of the model.
        messages: the conversation, ending with what is to be answered.
        sampling: how to choose tokens.
        tools: what may be called; calls to others are answered with an error.
        reply: filled while the reply is written, for a caller that wants to keep a partial one.
    """
    turn = _Turn(engine, tokenizer, messages, sampling, reply or Reply(tokenizer))
    try:
        while not turn.reason:
            for token in engine.step():
                yield from turn.push(token.id, token.reason, token.is_paused, tools)
    finally:
        turn.cancel()


def answer_many(
    engine: Engine,
    tokenizer: Tokenizer,
    conversations: Sequence[Sequence[Message]],
    sampling: Sampling,
    tools: Tools,
) -> list[Answer]:
    """Answer many conversations at once: for evaluation, with tools.

    Conversation i is sampled with seed `sampling.seed + i`, whatever the engine's batch size.

    Args:
        engine: has no other requests.
        tokenizer: of the model.
        conversations: each ending with what is to be answered.
        sampling: for all of them.
        tools: what may be called.
    """
    turns: dict[int, _Turn] = {}
    last: dict[int, Event] = {}
    try:
        for i, messages in enumerate(conversations):
            own = replace(sampling, seed=sampling.seed + i)
            turn = _Turn(engine, tokenizer, messages, own, Reply(tokenizer))
            turns[turn.request] = turn
        for token in engine.run():
            turn = turns[token.request]
            for event in turn.push(token.id, token.reason, token.is_paused, tools):
                last[token.request] = event
    finally:
        for turn in turns.values():
            turn.cancel()
    answers = []
    for request, turn in turns.items():
        done = last[request]
        assert isinstance(done, Done), "a turn ends with Done"
        answers.append(Answer(turn.reply.message, turn.reply.ids, done))
    return answers


class _Turn:
    """One request of the engine together with its reply and its clock."""

    def __init__(
        self,
        engine: Engine,
        tokenizer: Tokenizer,
        messages: Sequence[Message],
        sampling: Sampling,
        reply: Reply,
    ) -> None:
        self._engine = engine
        self._tokenizer = tokenizer
        self._n_tokens = 0
        self._started = time.monotonic()
        self._first_token_s = 0.0
        self.reply = reply
        self.reason: Reason | None = None
        special = tokenizer.special
        self.request = engine.submit(
            render(messages, tokenizer, add_generation_prompt=True).ids,
            sampling,
            # A new turn or document is an end as well: the model has left its own turn.
            stop_ids=[special[name] for name in (IM_END, IM_START, BOS)],
            pause_ids=[special[name] for name in PAUSE_TOKENS],
        )

    def push(
        self, id: int, reason: Reason | None, is_paused: bool, tools: Tools
    ) -> Iterator[Event]:
        """Take one token of the engine; yield what it brings about."""
        self._n_tokens += 1
        if self._n_tokens == 1:
            self._first_token_s = time.monotonic() - self._started
        calls = []
        for event in self.reply.push(id):
            yield event
            if isinstance(event, ToolCall):
                calls.append(event)
        if is_paused:
            # A closing token that closes nothing pauses too; the row goes on with nothing fed.
            ids = self._run_tool(calls[0], tools) if calls else []
            if ids is None:
                reason = "context"
                self._engine.cancel(self.request)
            else:
                self._engine.feed(self.request, ids)
                if calls:
                    yield from self.reply.push_output(calls[0].tool, ids)
        if reason:
            yield from self._finish(reason)

    def cancel(self) -> None:
        """Free the slot, if the turn still holds one."""
        self._engine.cancel(self.request)

    def _run_tool(self, call: ToolCall, tools: Tools) -> list[int] | None:
        """Return the ids of the tool's output; None if the context has no room for any."""
        room = min(self._engine.room(self.request), MAX_OUTPUT_TOKENS)
        if room < _MIN_OUTPUT_TOKENS:
            return None
        tool = tools.get(call.tool)
        text = tool.run(call.text) if tool else f"error: there is no tool named {call.tool}"
        return output_ids(text, self._tokenizer, room)

    def _finish(self, reason: Reason) -> Iterator[Event]:
        self.reason = reason
        yield from self.reply.finish()
        seconds = time.monotonic() - self._started
        yield Done(reason, self._n_tokens, self._n_tokens / max(seconds, 1e-9), self._first_token_s)
