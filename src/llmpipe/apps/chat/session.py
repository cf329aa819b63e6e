"""`llmpipe chat`: a conversation at the terminal, or one answer for a pipe."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path

from llmpipe.apps.chat.commands import COMMANDS, run_command
from llmpipe.apps.chat.state import Chat
from llmpipe.apps.chat.terminal import HISTORY_FILE, Interrupts, Keyboard
from llmpipe.apps.chat.token_view import token_view
from llmpipe.apps.load import load
from llmpipe.apps.printable import printable
from llmpipe.assistant.render import Message, PythonCall, SearchCall, ToolOutput
from llmpipe.assistant.reply import Reply, TextDelta, ToolCall, ToolResult
from llmpipe.assistant.tools.python import PythonTool
from llmpipe.core.console import Console
from llmpipe.core.errors import InputError, Interrupted, LlmpipeError, UserError
from llmpipe.inference.sampling import Sampling
from llmpipe.tokenizer.special import IM_END, IM_START


def run_chat(
    folder: Path,
    *,
    prompt: str | None = None,
    system: str | None = None,
    sampling: Sampling,
    show_tokens: bool = False,
    device: str = "auto",
    console: Console,
) -> int:
    """Chat until the person leaves; or, with a prompt or without a terminal, answer once.

    Args:
        folder: of the model.
        prompt: the only message; None asks at the terminal, or reads stdin if there is none.
        system: system message.
        sampling: how to choose tokens.
        show_tokens: show the ids of the conversation after every reply.
        device: `auto`, `cpu` or `cuda`.
        console: answers go to its stdout, everything else to its stderr.

    Returns:
        The exit code.
    """
    is_terminal = prompt is None and sys.stdin.isatty() and sys.stdout.isatty()
    text = None if is_terminal else _only_message(prompt)
    loaded = load(folder, device)
    for name in (IM_START, IM_END):
        if name not in loaded.tokenizer.special:
            raise InputError(
                f"{folder} has no token {name}, so it cannot chat",
                hint="let it go on with a text: `llmpipe sample`",
            )
    with PythonTool() as python:
        chat = Chat(loaded, {"python": python}, sampling, system, show_tokens=show_tokens)
        if text is None:
            _talk(chat, console, folder)
        else:
            _answer_once(chat, text, console)
    return 0


def _only_message(prompt: str | None) -> str:
    text = sys.stdin.read() if prompt is None else prompt
    if not text.strip():
        raise UserError("there is no message to answer", hint="give one with `-p`, or on stdin")
    return text.removesuffix("\n")


def _answer_once(chat: Chat, text: str, console: Console) -> None:
    """Print the answer to one message on stdout, and nothing else there."""
    chat.messages.append(Message("user", text))
    reply = Reply(chat.loaded.tokenizer)
    with Interrupts() as interrupts, contextlib.closing(chat.reply(reply)) as events:
        for event in events:
            if isinstance(event, TextDelta) and not console.json_output:
                console.write(printable(event.text))
            elif isinstance(event, ToolCall | ToolResult):
                console.debug(f"{_label(event)} {printable(event.text)}")
            if interrupts.requested:
                raise Interrupted("stopped by Ctrl-C")
    chat.messages.append(reply.message)
    if console.json_output:
        console.document(_as_json(chat, reply))
        return
    console.out()
    if chat.show_tokens:
        console.info(token_view(chat.rendered(), chat.loaded.tokenizer, console.has_colour))


def _as_json(chat: Chat, reply: Reply) -> dict[str, object]:
    assert chat.last, "a reply that was not stopped has an end"
    tools = []
    for part in reply.message.parts:
        match part:
            case PythonCall(text):
                tools.append({"tool": "python", "input": text})
            case SearchCall(text):
                tools.append({"tool": "search", "input": text})
            case ToolOutput(text) if tools:
                tools[-1]["output"] = text
    document: dict[str, object] = {
        "answer": reply.message.text,
        "tools": tools,
        "reason": chat.last.reason,
        "n_tokens": chat.last.n_tokens,
        "tok_per_s": round(chat.last.tok_per_s, 1),
    }
    if chat.show_tokens:
        rendered = chat.rendered()
        document |= {"ids": rendered.ids, "mask": rendered.mask}
    return document


def _talk(chat: Chat, console: Console, folder: Path) -> None:
    """Ask and answer until the person leaves."""
    console.info(f"{folder}: `/help` lists the commands, Ctrl-D leaves")
    keyboard = Keyboard(COMMANDS, lambda: _status(chat), Path.home() / HISTORY_FILE)
    was_interrupted = False
    while True:
        try:
            line = keyboard.ask().strip()
        except EOFError:
            return
        except KeyboardInterrupt:
            if was_interrupted:
                return
            was_interrupted = True
            console.info("Ctrl-C again, or Ctrl-D, leaves")
            continue
        was_interrupted = False
        try:
            if line.startswith("/"):
                following = run_command(line, chat, console)
            elif line:
                chat.messages.append(Message("user", line))
                following = "reply"
            else:
                continue
            if following == "quit":
                return
            if following == "reply":
                was_interrupted = not print_reply(chat, console)
        except KeyboardInterrupt:  # the second Ctrl-C within one reply
            return
        except LlmpipeError as error:
            console.error(error.message, error.hint)


def print_reply(chat: Chat, console: Console) -> bool:
    """Stream the answer to the last message and keep it, whole or partial.

    Returns:
        False if Ctrl-C stopped it.
    """
    if n_dropped := chat.make_room():
        console.info(f"the context is full: the {n_dropped} oldest messages are forgotten")
    reply = Reply(chat.loaded.tokenizer, chat.raw)
    with Interrupts() as interrupts, contextlib.closing(chat.reply(reply)) as events:
        for event in events:
            if isinstance(event, TextDelta):
                console.write(printable(event.text))
            elif isinstance(event, ToolCall | ToolResult) and not chat.raw:
                console.out(f"  {_label(event)} {printable(event.text)}")
            if interrupts.requested:
                break
    console.out(" [stopped]" if interrupts.requested else "")
    if reply.message.parts != Message("assistant", "").parts:
        chat.messages.append(reply.message)
    if chat.last and chat.last.reason != "stop" and not interrupts.requested:
        limit = "max_tokens" if chat.last.reason == "length" else "the end of the context"
        console.info(f"the answer was cut at {limit}")
    if chat.show_tokens:
        console.out(token_view(chat.rendered(), chat.loaded.tokenizer, console.has_colour))
    return not interrupts.requested


def _label(event: ToolCall | ToolResult) -> str:
    return f"[{event.tool}]" if isinstance(event, ToolCall) else "[result]"


def _status(chat: Chat) -> str:
    parts = [f"context {len(chat.rendered().ids)}/{chat.loaded.engine.max_len}"]
    if chat.last:
        parts.append(f"{chat.last.n_tokens} tokens, {chat.last.tok_per_s:,.0f} tokens/s")
    parts.append(f"temperature {chat.sampling.temperature:g}")
    return "  ".join(parts)
