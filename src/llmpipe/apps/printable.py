"""Model text on a terminal: a model has read the web, and can write what moves the cursor."""

from __future__ import annotations

import io
from typing import Literal

from rich.console import Console as RichConsole
from rich.console import RenderableType

_CONTROL = {code: "\ufffd" for code in (*range(0x20), *range(0x7F, 0xA0))}
_TABLE = {**_CONTROL, ord("\n"): "\n", ord("\t"): "\t", ord("\r"): None}


def printable(text: str) -> str:
    """Return `text` with control characters but newline and tab as U+FFFD.

    Escape sequences could otherwise clear the screen, set the clipboard or hide what was said.
    """
    return text.translate(_TABLE)


def drawn(thing: RenderableType, width: int, has_color: bool) -> str:
    """Return what Rich makes of a table or a text, as lines without spaces at their ends."""
    page = io.StringIO()
    colors: Literal["standard"] | None = "standard" if has_color else None
    RichConsole(file=page, width=width, force_terminal=has_color, color_system=colors).print(thing)
    return "\n".join(line.rstrip() for line in page.getvalue().splitlines())
