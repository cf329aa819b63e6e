"""Replies to conversations: the engine writes, tools answer in between.

When the model closes a tool call, its row pauses; the tool runs; the result is forced into the row as
ordinary tokens between `<|output_start|>` and `<|output_end|>`; and the model writes on. That is all
there is to tool use. A thought that gets too long is ended in the same way, by forcing the token that
closes it.
"""

from __future__ import annotations

import math
import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from llmpipe.assistant.frames import frame_for, stop_ids
from llmpipe.assistant.render import Message, render
from llmpipe.assistant.reply import (
    PAUSE_TOKENS,
    Done,
    Event,
    Reason,
    Reply,
    ToolCall,
    output_ids,
)
from llmpipe.assistant.tools import Tool, ToolName
from llmpipe.inference.engine import Engine
from llmpipe.inference.sampling import Sampling
from llmpipe.tokenizer.bpe import Tokenizer
from llmpipe.tokenizer.special import THINK_END, THINK_START

Tools = Mapping[ToolName, Tool]

MAX_OUTPUT_TOKENS = 256
"""Of one tool output, so that a single call cannot fill the context."""

ANSWER_TOKENS = 48
"""Kept free behind a tool output where the context is short, for the answer that it is meant for."""

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
    max_thought: int | None = None,
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
        max_thought: tokens the assistant may think; 0 keeps it from thinking, None sets no bound.
    """
    reply = reply or Reply(tokenizer)
    turn = _Turn(engine, tokenizer, messages, sampling, reply, max_thought)
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
    max_thought: int | None = None,
) -> list[Answer]:
    """Answer many conversations at once: for evaluation, with tools.

    Conversation i is sampled with seed `sampling.seed + i`, whatever the engine's batch size.

    Args:
        engine: has no other requests.
        tokenizer: of the model.
        conversations: each ending with what is to be answered.
        sampling: for all of them.
        tools: what may be called.
        max_thought: tokens each may think; as in `stream_reply`.
    """
    turns: dict[int, _Turn] = {}
    last: dict[int, Event] = {}
    try:
        for i, messages in enumerate(conversations):
            own = replace(sampling, seed=sampling.seed + i)
            turn = _Turn(engine, tokenizer, messages, own, Reply(tokenizer), max_thought)
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
        max_thought: int | None = None,
    ) -> None:
        self._engine = engine
        self._tokenizer = tokenizer
        self._n_tokens = 0
        self._started = time.monotonic()
        self._first_token_s = 0.0
        self.reply = reply
        self.reason: Reason | None = None
        self._max_thought = max_thought
        special = tokenizer.special
        begin, end = _thought_ids(tokenizer)
        self._thought_end = end
        if max_thought == 0 and begin is not None:
            bias = (*sampling.logit_bias, (begin, -math.inf))
            sampling = replace(sampling, logit_bias=bias)
        self.request = engine.submit(
            render(messages, tokenizer, add_generation_prompt=True).ids,
            sampling,
            stop_ids=stop_ids(tokenizer),
            pause_ids=[special[name] for name in PAUSE_TOKENS if name in special],
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
        elif self._has_thought_enough() and self._thought_end is not None:
            self._engine.feed(self.request, [self._thought_end])
            yield from self.reply.push(self._thought_end)

    def cancel(self) -> None:
        """Free the slot, if the turn still holds one."""
        self._engine.cancel(self.request)

    def _has_thought_enough(self) -> bool:
        most = self._max_thought
        is_over = self.reply.is_thinking and most is not None and self.reply.n_thought >= most
        return is_over and self._engine.room(self.request) > 0

    def _run_tool(self, call: ToolCall, tools: Tools) -> list[int] | None:
        """Return the ids of the tool's output; None if the context has no room for any."""
        room = self._engine.room(self.request)
        if room < _MIN_OUTPUT_TOKENS:
            return None
        room = min(max(room - ANSWER_TOKENS, _MIN_OUTPUT_TOKENS), MAX_OUTPUT_TOKENS)
        tool = tools.get(call.tool)
        text = tool.run(call.text) if tool else f"error: there is no tool named {call.tool}"
        return output_ids(text, self._tokenizer, room)

    def _finish(self, reason: Reason) -> Iterator[Event]:
        self.reason = reason
        yield from self.reply.finish()
        seconds = time.monotonic() - self._started
        yield Done(reason, self._n_tokens, self._n_tokens / max(seconds, 1e-9), self._first_token_s)


def _thought_ids(tokenizer: Tokenizer) -> tuple[int | None, int | None]:
    """Return the ids around thoughts, as far as the vocabulary has them."""
    for begin, end in (frame_for(tokenizer).think, (THINK_START, THINK_END)):
        if begin in tokenizer.special and end in tokenizer.special:
            return tokenizer.special[begin], tokenizer.special[end]
    return None, None
