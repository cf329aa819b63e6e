"""Model text on a terminal: a model has read the web, and can write what moves the cursor."""

from __future__ import annotations

_CONTROL = {code: "\ufffd" for code in (*range(0x20), *range(0x7F, 0xA0))}
_TABLE = {**_CONTROL, ord("\n"): "\n", ord("\t"): "\t", ord("\r"): None}


def printable(text: str) -> str:
    """Return `text` with control characters but newline and tab as U+FFFD.

    Escape sequences could otherwise clear the screen, set the clipboard or hide what was said.
    """
    return text.translate(_TABLE)
