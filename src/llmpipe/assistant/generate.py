"""Replies to conversations: the engine writes, tools answer in between.

When the model closes a tool call, its row pauses; the tool runs; the result is injected into the row as
ordinary tokens between `<|output_start|>` and `<|output_end|>`; and the model writes on. That is all
there is to tool use. A thought that gets too long is ended in the same way, by injecting the token that
closes it.

`Reply` (`reply.py`) decides all of that, for the server as well. Here is the plain loop around it, which
waits for each tool.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import replace

from llmpipe.assistant.events import Event
from llmpipe.assistant.render import Message, render
from llmpipe.assistant.reply import Reply, room, settle
from llmpipe.assistant.rules import ReplyRules
from llmpipe.assistant.tools import Tool, ToolName
from llmpipe.inference.engine import Engine, Token
from llmpipe.inference.sampling import Sampling
from llmpipe.tokenizer.bpe import Tokenizer

Tools = Mapping[ToolName, Tool]


def stream_reply(
    engine: Engine,
    messages: Sequence[Message],
    sampling: Sampling,
    tools: Tools,
    reply: Reply,
) -> Generator[Event, None, None]:
    """Yield the reply to a conversation as it is written; the last event is `Done`.

    Closing the generator ends the request and frees its slot.

    Args:
        engine: has no other requests.
        tools: what can be run; calls of others are answered with an error, unless the reply's rules
            rule them out.
        reply: filled while the reply is written, so that the caller can keep a partial one.
    """
    request = _submit(engine, messages, sampling, reply)
    try:
        while not reply.done:
            for token in engine.step():
                yield from _advance(engine, reply, token, tools)
    finally:
        engine.cancel(request)


def answer_many(
    engine: Engine,
    tokenizer: Tokenizer,
    conversations: Sequence[Sequence[Message]],
    sampling: Sampling,
    tools: Tools,
    rules: ReplyRules | None = None,
) -> list[Reply]:
    """Answer many conversations at once: for evaluation, with tools.

    Conversation i is sampled with seed `sampling.seed + i`, whatever the engine's batch size.

    Each reply has the turn's ids, which of them the model chose and, where `sampling.n_logprobs` is
    set, how likely those were. The engine must have no other requests.
    """
    replies: dict[int, Reply] = {}
    try:
        for i, messages in enumerate(conversations):
            own = replace(sampling, seed=sampling.seed + i)
            reply = Reply(tokenizer, rules)
            replies[_submit(engine, messages, own, reply)] = reply
        for token in engine.run():
            for _ in _advance(engine, replies[token.request], token, tools):
                pass
    finally:
        for request in replies:
            engine.cancel(request)
    return list(replies.values())


def _submit(engine: Engine, messages: Sequence[Message], sampling: Sampling, reply: Reply) -> int:
    # To the model a chat is one sequence of ids that ends in the middle: an open turn of the
    # assistant, which it continues as it would any text.
    rules, tokenizer = reply.rules, reply.tokenizer
    return engine.submit(
        render(messages, tokenizer, add_generation_prompt=True).ids,
        rules.applied_to(sampling, tokenizer),
        stop_ids=rules.stop_ids(tokenizer),
        pause_ids=rules.pause_ids(tokenizer),
    )


def _advance(engine: Engine, reply: Reply, token: Token, tools: Tools) -> Iterator[Event]:
    """Take one token, and run the tool that the reply then waits for."""
    yield from reply.push(token, room(engine, token))
    # Nothing is computed while the tool runs: the row keeps its keys and values, and of the output only
    # the new ids go through the model.
    if call := reply.call:
        tool = tools.get(call.tool)
        output = tool.run(call.text) if tool else f"error: there is no tool named {call.tool}"
        yield from reply.give(output, engine.room(token.request))
    settle(engine, token.request, reply)
