"""The keyboard: a line editor with history, and Ctrl-C as a request that can be met in good order."""

from __future__ import annotations

import signal
import sys
import termios
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

from prompt_toolkit import PromptSession
from prompt_toolkit.application import get_app
from prompt_toolkit.completion import CompleteEvent, Completer, Completion, PathCompleter
from prompt_toolkit.document import Document
from prompt_toolkit.filters import Condition
from prompt_toolkit.history import FileHistory
from prompt_toolkit.input import Input
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
from prompt_toolkit.output import Output

HISTORY_FILE = Path(".local/state/llmpipe/chat_history")
"""Below the home folder; readable by its owner alone."""

PATH = "PATH"


class Keyboard:
    """Asks for messages.

    Enter sends. Alt-Enter starts a new line. Pasted text is put in as it is, lines and all, and waits
    for Enter (bracketed paste).

    Args:
        commands: words offered after a slash, each with the words that may follow; `PATH` stands
            for the name of a file.
        status: text of the line at the bottom, asked for at every key.
        history: file of earlier messages; None keeps none.
        keys: the terminal by default, as is `screen`.
        screen: where the editor draws.
    """

    def __init__(
        self,
        commands: Mapping[str, Sequence[str]],
        status: Callable[[], str],
        history: Path | None = None,
        keys: Input | None = None,
        screen: Output | None = None,
    ) -> None:
        self._session: PromptSession[str] = PromptSession(
            multiline=True,
            key_bindings=_bindings(),
            completer=CommandCompleter(commands),
            complete_while_typing=Condition(lambda: get_app().current_buffer.text.startswith("/")),
            history=FileHistory(_private(history)) if history else None,
            bottom_toolbar=status,
            prompt_continuation="  ",
            input=keys,
            output=screen,
        )

    def ask(self, text: str = "") -> str:
        """Return what was typed; `text` is there to be edited.

        Raises:
            KeyboardInterrupt: on Ctrl-C.
            EOFError: on Ctrl-D.
        """
        return self._session.prompt("> ", default=text)


class CommandCompleter(Completer):
    """Offers commands after a slash, and then the words or files that may follow."""

    def __init__(self, commands: Mapping[str, Sequence[str]]) -> None:
        self._commands = commands
        self._paths = PathCompleter(expanduser=True)

    def get_completions(self, document: Document, event: CompleteEvent) -> Iterable[Completion]:
        """Yield what may follow the text up to the cursor."""
        text = document.text_before_cursor
        if not text.startswith("/"):
            return
        name, space, rest = text[1:].partition(" ")
        words, typed = (self._commands.get(name, ()), rest) if space else (self._commands, name)
        if space and PATH in words:
            yield from self._paths.get_completions(Document(rest), event)
            return
        for word in words:
            if word.startswith(typed):
                yield Completion(word, start_position=-len(typed))


def _bindings() -> KeyBindings:
    bindings = KeyBindings()

    @bindings.add("enter")
    def _send(event: KeyPressEvent) -> None:
        event.current_buffer.validate_and_handle()

    @bindings.add("escape", "enter")
    def _new_line(event: KeyPressEvent) -> None:
        event.current_buffer.insert_text("\n")

    return bindings


def _private(path: Path) -> str:
    """Make the history file if it is missing, for its owner alone."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch(mode=0o600)
    path.chmod(0o600)
    return str(path)


class Interrupts:
    """While open, the first Ctrl-C sets `requested`; a second one raises KeyboardInterrupt.

    So a reply can be ended between two tokens, with everything in order. Keys that are typed meanwhile
    do not show up in the reply; they wait for the next question. Must be opened in the main thread.
    """

    def __init__(self) -> None:
        self.requested = False
        self._before: Any = None
        self._echo: list[Any] | None = None

    def __enter__(self) -> Interrupts:
        self._before = signal.signal(signal.SIGINT, self._note)
        self._echo = _without_echo()
        return self

    def __exit__(self, *error: object) -> None:
        signal.signal(signal.SIGINT, self._before)
        if self._echo:
            termios.tcsetattr(sys.stdin, termios.TCSANOW, self._echo)

    def _note(self, signum: int, frame: FrameType | None) -> None:
        if self.requested:
            raise KeyboardInterrupt
        self.requested = True


def _without_echo() -> list[Any] | None:
    """Keep the terminal from showing keys; return its settings before, or None without a terminal."""
    if not sys.stdin.isatty():
        return None
    before = termios.tcgetattr(sys.stdin)
    quiet = before.copy()
    quiet[3] &= ~termios.ECHO
    termios.tcsetattr(sys.stdin, termios.TCSANOW, quiet)
    return before
