"""Answers without a keyboard: the answer alone on stdout, or one line of JSON for each conversation."""

from __future__ import annotations

import contextlib
import json
import sys

from llmpipe.apps.chat.state import Chat, read_messages
from llmpipe.apps.chat.terminal import Interrupts
from llmpipe.apps.chat.token_view import token_view
from llmpipe.apps.printable import printable
from llmpipe.assistant.events import TextDelta, ThinkDelta, ToolCall, ToolResult
from llmpipe.assistant.render import Message, Thought, ToolOutput
from llmpipe.assistant.reply import Reply
from llmpipe.assistant.tool_list import called
from llmpipe.core.console import Console
from llmpipe.core.errors import InputError, Interrupted, UserError


def read_questions(prompt: str | None, is_json: bool) -> list[list[Message]]:
    """Return the conversations to answer: one message, or with `--json` a conversation on each line.

    Raises:
        UserError: if there is nothing to answer.
        InputError: if a line is no conversation.
    """
    text = sys.stdin.read() if prompt is None else prompt
    if not text.strip():
        raise UserError("there is no message to answer", hint="give one with `-p`, or on stdin")
    if prompt is None and is_json and text.lstrip().startswith('{"messages"'):
        lines = [(n, line) for n, line in enumerate(text.split("\n"), start=1) if line.strip()]
        conversations = [read_messages(line, f"line {n}") for n, line in lines]
        for (n, _), messages in zip(lines, conversations, strict=True):
            if not messages or messages[-1].role == "assistant":
                raise InputError(f"line {n} ends with an answer, and something to answer is needed")
        return conversations
    return [[Message("user", text.removesuffix("\n"))]]


def answer_once(chat: Chat, console: Console) -> None:
    """Print the answer to the last message on stdout, and nothing else there.

    Raises:
        Interrupted: by Ctrl-C.
    """
    reply = chat.new_reply()
    with Interrupts() as interrupts, contextlib.closing(chat.reply(reply)) as events:
        for event in events:
            if isinstance(event, TextDelta) and not console.json_output:
                console.write(printable(event.text))
            elif isinstance(event, ToolCall | ToolResult):
                label = event.tool if isinstance(event, ToolCall) else "result"
                console.debug(f"[{label}] {printable(event.text)}")
            elif isinstance(event, ThinkDelta):
                console.debug(f"[thinks] {printable(event.text)}")
            if interrupts.requested:
                raise Interrupted("stopped by Ctrl-C")
    chat.messages.append(reply.message)
    if console.json_output:
        console.out(json.dumps(_as_json(chat, reply), ensure_ascii=False))
        return
    console.out()
    if not reply.message.text:
        console.info("the answer is empty")
    if chat.show_tokens:
        console.info(token_view(chat.rendered(), chat.loaded.tokenizer, console.has_colour))


def _as_json(chat: Chat, reply: Reply) -> dict[str, object]:
    assert chat.last, "a reply that was not stopped has an end"
    tools: list[dict[str, str]] = []
    thoughts = []
    for part in reply.message.parts:
        if call := called(part):
            tools.append({"tool": call[0], "input": call[1]})
        elif isinstance(part, ToolOutput) and tools:
            tools[-1]["output"] = part.text
        elif isinstance(part, Thought):
            thoughts.append(part.text)
    document: dict[str, object] = {
        "answer": reply.message.text,
        "tools": tools,
        "reason": chat.last.reason,
        "n_tokens": chat.last.n_tokens,
        "tok_per_s": round(chat.last.tok_per_s, 1),
    }
    if thoughts and chat.think == "show":
        document["thought"] = "".join(thoughts)
    if chat.show_tokens:
        rendered = chat.rendered()
        document |= {"ids": rendered.ids, "mask": rendered.mask}
    return document
