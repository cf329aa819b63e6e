"""`llmpipe chat`: a conversation at the terminal, or answers for a pipe."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from llmpipe.apps.chat.commands import COMMANDS, Next, run_command
from llmpipe.apps.chat.once import answer_once, read_questions
from llmpipe.apps.chat.reply_printer import print_reply
from llmpipe.apps.chat.state import Chat, ThinkMode
from llmpipe.apps.chat.terminal import HISTORY_FILE, Keyboard
from llmpipe.apps.load import load
from llmpipe.assistant.frames import frame_for
from llmpipe.assistant.render import Message
from llmpipe.assistant.tools import Tool, ToolName, open_tools, parse_tool_names
from llmpipe.assistant.tools.policy import examine_kernel
from llmpipe.core.console import Console
from llmpipe.core.errors import InputError, LlmpipeError, UserError
from llmpipe.inference.sampling import Sampling


@dataclass(frozen=True)
class ToolOptions:
    """What the command line says about tools.

    Attributes:
        names: joined by commas, or `none`; None takes those that can be had.
        corpus: what `search` looks through; the corpus of the model's run by default.
        search_url: of an HTTP service that `search` asks instead.
        search_hosts: hosts it may be on, besides loopback.
        unsafe: run Python programs without a sandbox.
    """

    names: str | None = None
    corpus: Path | None = None
    search_url: str | None = None
    search_hosts: tuple[str, ...] = ()
    unsafe: bool = False


def run_chat(
    folder: Path,
    *,
    prompt: str | None = None,
    system: str | None = None,
    sampling: Sampling,
    tools: ToolOptions | None = None,
    think: ThinkMode = "show",
    max_thought: int | None = None,
    show_tokens: bool = False,
    device: str = "auto",
    console: Console,
) -> None:
    """Chat until the person leaves; or, with a prompt or without a terminal, answer once.

    Args:
        folder: of the model.
        prompt: the only message; None asks at the terminal, or reads stdin if there is none.
        show_tokens: show the ids of the conversation after every reply.
        console: answers go to its stdout, everything else to its stderr.
    """
    is_terminal = prompt is None and sys.stdin.isatty() and sys.stdout.isatty()
    questions = [] if is_terminal else read_questions(prompt, console.json_output)
    if is_terminal:
        console.info(f"loading {folder}")
    loaded = load(folder, device, warn=console.warn)
    frame = frame_for(loaded.tokenizer)
    for name in (frame.start, frame.end):
        if name not in loaded.tokenizer.special:
            raise InputError(
                f"{folder} has no token {name}, so it cannot chat",
                hint="let it go on with a text: `llmpipe sample`",
            )
    tools = tools or ToolOptions()
    with open_chat_tools(tools, folder, console) as opened:
        chat = Chat(loaded, opened, sampling, system, "/".join(folder.resolve().parts[-2:]))
        chat.think, chat.max_thought, chat.show_tokens = think, max_thought, show_tokens
        chat.offered = None if tools.names is None else tuple(opened)
        if is_terminal:
            _talk(chat, console)
        for messages in questions:
            chat.begin(messages)
            chat.system = chat.system or system
            answer_once(chat, console)


def open_chat_tools(
    options: ToolOptions, model_folder: Path, console: Console
) -> AbstractContextManager[Mapping[ToolName, Tool]]:
    """Open the tools of a chat with the model in `model_folder`.

    Raises:
        UserError: if a tool was asked for that cannot be had.
    """
    own_corpus = model_folder.resolve().parent / "corpus"
    corpus = options.corpus
    if corpus is None and (own_corpus / "manifest.json").is_file():
        corpus = own_corpus
    if options.names is None:
        names: Sequence[ToolName] = ("python",)
        if not options.unsafe and not examine_kernel().has_seccomp:
            console.info("no python tool: this system has no sandbox for it")
            names = ()
        if corpus is not None or options.search_url is not None:
            names = (*names, "search")
    else:
        names = parse_tool_names(options.names)
        if (options.corpus or options.search_url) and "search" not in names:
            raise UserError("something to search is named, and the tool `search` is not")
    return open_tools(
        names,
        corpus,
        search_url=options.search_url,
        search_hosts=options.search_hosts,
        unsafe=options.unsafe,
    )


def _talk(chat: Chat, console: Console) -> None:
    """Ask and answer until the person leaves."""
    console.info(f"{chat.name}: `/help` lists the commands, Ctrl-D leaves")
    words = {name: command.words for name, command in COMMANDS.items()}
    keyboard = Keyboard(words, lambda: status(chat), Path.home() / HISTORY_FILE)
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
        try:
            following = _take(line, chat, console, keyboard)
            if following == "quit":
                return
            was_interrupted = following == "reply" and not print_reply(chat, console)
        except KeyboardInterrupt:  # the second Ctrl-C within one reply
            return
        except LlmpipeError as error:
            console.error(error.message, error.hint)
            # A message that cannot be answered, such as one longer than the context.
            if chat.messages and chat.messages[-1].role == "user":
                chat.messages.pop()
                console.info("the message was taken back")
            was_interrupted = False


def _take(line: str, chat: Chat, console: Console, keyboard: Keyboard) -> Next | None:
    """Do what a line says; return what follows, if not the next question: an answer or the end."""
    if not line:
        return None
    if not line.startswith("/"):
        chat.messages.append(Message("user", line))
        return "reply"
    following = run_command(line, chat, console)
    if following != "edit":
        return following
    try:
        text = keyboard.ask(chat.messages[chat.last_user()].text).strip()
    except (KeyboardInterrupt, EOFError):
        text = ""
    if not text:
        console.info("nothing was changed")
        return None
    chat.undo()
    chat.messages.append(Message("user", text))
    return "reply"


def status(chat: Chat) -> str:
    """Return the line at the bottom: model, temperature, context used, tools, speed."""
    n_used, n_most = len(chat.rendered().ids), chat.loaded.engine.max_len
    parts = [
        chat.name,
        f"temperature {chat.sampling.temperature:g}",
        f"context {n_used:,}/{n_most:,} ({n_used / n_most:.0%})",
        f"tools {' '.join(chat.usable_tools) or 'none'}",
    ]
    if chat.think != "show":
        parts.append(f"thinking {'hidden' if chat.think == 'hide' else 'off'}")
    if chat.last:
        parts.append(f"{chat.last.tok_per_s:,.0f} tokens/s")
    return " · ".join(parts)
