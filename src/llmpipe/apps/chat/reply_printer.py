"""An answer on the screen while it is written: text as it comes, thoughts dim, tools on lines of their own."""

from __future__ import annotations

import contextlib

from llmpipe.apps.chat.state import Chat, ThinkMode
from llmpipe.apps.chat.terminal import Interrupts
from llmpipe.apps.chat.token_view import token_view
from llmpipe.apps.printable import printable
from llmpipe.assistant.events import Done, Event, TextDelta, ThinkDelta, ToolCall, ToolResult
from llmpipe.assistant.render import Message
from llmpipe.core.console import Console

_DIM, _PLAIN = "\x1b[2m", "\x1b[0m"
_MAX_LINES = 12
"""Of a tool's result on the screen; `/raw` shows all that the assistant reads."""


class ReplyPrinter:
    """Writes the events of one reply.

    `has_tools` shows calls and results; in the raw view they are part of the text already.
    """

    def __init__(self, console: Console, think: ThinkMode, has_tools: bool) -> None:
        self._console = console
        self._think = think
        self._has_tools = has_tools
        self._is_line_start = True
        self._is_in_thought = False

    def show(self, event: Event) -> None:
        """Write what an event adds."""
        match event:
            case ThinkDelta(text):
                self._thought(text)
            case TextDelta(text):
                self._end_thought()
                self._write(printable(text))
            case ToolCall(tool, text) if self._has_tools:
                self._end_thought()
                self._block(f"[{tool}] ", text)
            case ToolResult(_, text) if self._has_tools:
                self._block("[result] ", text)
            case Done():
                self._end_thought()

    def end(self, is_stopped: bool) -> None:
        """End the last line."""
        self._end_thought()
        if is_stopped:
            self._write(" [stopped]")
        if not self._is_line_start or not is_stopped:
            self._write("\n")

    def _thought(self, text: str) -> None:
        if self._think == "show":
            if not self._is_in_thought:
                text = f"[thinks] {text}"
            self._write(self._dim(printable(text)))
        elif not self._is_in_thought:
            self._write(self._dim("[thinks …]"))
        self._is_in_thought = True

    def _end_thought(self) -> None:
        if self._is_in_thought:
            self._is_in_thought = False
            self._new_line()

    def _block(self, label: str, text: str) -> None:
        """Write several lines below each other, behind a label."""
        self._new_line()
        lines = printable(text).splitlines() or [""]
        if len(lines) > _MAX_LINES:
            lines = [*lines[: _MAX_LINES - 1], f"… {len(lines) - _MAX_LINES + 1} more lines"]
        indent = "\n  " + " " * len(label)
        self._write(self._dim(f"  {label}{indent.join(lines)}"))
        self._new_line()

    def _new_line(self) -> None:
        if not self._is_line_start:
            self._write("\n")

    def _write(self, text: str) -> None:
        if text:
            self._console.write(text)
            self._is_line_start = text.endswith("\n")

    def _dim(self, text: str) -> str:
        return f"{_DIM}{text}{_PLAIN}" if self._console.has_colour else text


def print_reply(chat: Chat, console: Console) -> bool:
    """Stream the answer to the last message and keep it, whole or partial; False if Ctrl-C stopped it."""
    if n_dropped := chat.make_room():
        console.info(f"the context is full: the {n_dropped} oldest messages are forgotten")
    reply = chat.new_reply()
    printer = ReplyPrinter(console, chat.think, has_tools=not chat.raw)
    try:
        with Interrupts() as interrupts, contextlib.closing(chat.reply(reply)) as events:
            for event in events:
                printer.show(event)
                if interrupts.requested:
                    break
    finally:
        if reply.message.parts != Message("assistant", "").parts:
            chat.messages.append(reply.message)
    printer.end(interrupts.requested)
    if chat.last and chat.last.reason != "stop" and not interrupts.requested:
        limit = "max_tokens" if chat.last.reason == "length" else "the end of the context"
        console.info(f"the answer was cut at {limit}")
    elif not reply.message.text and not interrupts.requested:
        console.info("the answer is empty")
    if chat.show_tokens:
        console.out(token_view(chat.rendered(), chat.loaded.tokenizer, console.has_colour))
    return not interrupts.requested
