"""A text as the tokens of one tokenizer, as data for the terminal and for the page.

This is all a model sees of a text: numbers. It is not shown the letters inside a token, which is why it
finds spelling and counting letters hard.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from llmpipe.tokenizer.bpe import Tokenizer, clean_text

_SIGNS = {" ": "·", "\n": "⏎", "\t": "→"}


@dataclass(frozen=True)
class ShownToken:
    """One token."""

    id: int
    shown: str
    """Its text with spaces and line breaks visible; bytes that are no whole character as `\\xe4`."""
    is_special: bool
    ends_line: bool


@dataclass(frozen=True)
class View:
    """A text's tokens."""

    name: str
    pieces: list[ShownToken]
    n_bytes: int

    @property
    def bytes_per_token(self) -> float:
        """How much text a token holds on average."""
        return self.n_bytes / max(1, len(self.pieces))


def view_tokens(name: str, text: str, tokenizer: Tokenizer) -> View:
    """Return the tokens of a text.

    Special tokens spelled in the text are shown as the special tokens that code would put there.
    `Tokenizer.encode` never makes them from text.
    """
    text, _ = clean_text(text)
    spellings = sorted(tokenizer.special, key=len, reverse=True)
    parts = re.split("(" + "|".join(map(re.escape, spellings)) + ")", text) if spellings else [text]
    pieces: list[ShownToken] = []
    for part in parts:
        if part in tokenizer.special:
            pieces.append(ShownToken(tokenizer.special[part], part, True, False))
        elif part:
            for id in tokenizer.encode(part):
                token = tokenizer.token_bytes(id)
                pieces.append(ShownToken(id, show(token), False, token.endswith(b"\n")))
    return View(name, pieces, len(text.encode()))


def show(token: bytes) -> str:
    """Write a token's bytes so that every one of them can be seen and none does anything."""
    text = token.decode("utf-8", errors="backslashreplace")
    return "".join(
        _SIGNS.get(c) or (c if c.isprintable() else c.encode("unicode_escape").decode())
        for c in text
    )
