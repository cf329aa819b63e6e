"""The keyboard: a line editor with history, and Ctrl-C as a request instead of a blow."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterable
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

from prompt_toolkit import PromptSession
from prompt_toolkit.completion import WordCompleter
from prompt_toolkit.history import FileHistory
from prompt_toolkit.input import Input
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
from prompt_toolkit.output import Output

HISTORY_FILE = Path(".local/state/llmpipe/chat_history")
"""Below the home folder; readable by its owner alone."""


class Keyboard:
    """Asks for messages.

    Enter sends. Alt-Enter starts a new line. Pasted text is put in as it is, lines and all, and waits
    for Enter (bracketed paste).

    Args:
        commands: words offered after a slash.
        status: text of the line at the bottom, asked for at every key.
        history: file of earlier messages; None keeps none.
        keys: where keys come from; the terminal by default.
        screen: where the editor draws; the terminal by default.
    """

    def __init__(
        self,
        commands: Iterable[str],
        status: Callable[[], str],
        history: Path | None = None,
        keys: Input | None = None,
        screen: Output | None = None,
    ) -> None:
        completer = WordCompleter([f"/{name}" for name in commands], sentence=True)
        self._session: PromptSession[str] = PromptSession(
            multiline=True,
            key_bindings=_bindings(),
            completer=completer,
            complete_while_typing=False,
            history=FileHistory(_private(history)) if history else None,
            bottom_toolbar=status,
            prompt_continuation="  ",
            input=keys,
            output=screen,
        )

    def ask(self) -> str:
        """Return what was typed.

        Raises:
            KeyboardInterrupt: on Ctrl-C.
            EOFError: on Ctrl-D.
        """
        return self._session.prompt("> ")


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

    A reply can so be ended between two tokens, with everything in order. Must be opened in the main thread.
    """

    def __init__(self) -> None:
        self.requested = False
        self._before: Any = None

    def __enter__(self) -> Interrupts:
        self._before = signal.signal(signal.SIGINT, self._note)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        signal.signal(signal.SIGINT, self._before)

    def _note(self, signum: int, frame: FrameType | None) -> None:
        if self.requested:
            raise KeyboardInterrupt
        self.requested = True
