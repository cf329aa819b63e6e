"""`llmpipe tokens "text"`: pieces and ids in the terminal, of several tokenizers side by side."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.table import Table
from rich.text import Text

from llmpipe.apps.chat.token_view import token_view
from llmpipe.apps.printable import drawn
from llmpipe.apps.tokens.find import OURS, find_tokenizer
from llmpipe.apps.tokens.view import View, view_tokens
from llmpipe.assistant.render import render as render_conversation
from llmpipe.core.console import Console
from llmpipe.core.errors import InputError, UserError
from llmpipe.stages.sft.sources import read_conversations
from llmpipe.tokenizer import twin
from llmpipe.tokenizer.special import IM_START

_STYLES = ("black on cyan", "black on green", "black on yellow", "black on bright_blue")
_SPECIAL = "white on magenta"

_N_EXPLAINED = 12
_N_CONVERSATIONS = 3
_MIN_WIDTH = 32
_MAX_CHARS = 100_000


def run_tokens(
    texts: tuple[str, ...], tokenizers: tuple[str, ...], explain: bool, console: Console
) -> None:
    """Show texts as tokens.

    Args:
        texts: shown one after the other; none means standard input.
        tokenizers: names, see `find_tokenizer`; none means `ours`.
        explain: walk through the first merges of each text instead.

    Raises:
        UserError: if there is no text, or no tokenizer has such a name.
    """
    if not texts and sys.stdin.isatty():
        raise UserError("there is no text to show", 'llmpipe tokens "hello world"')
    texts = texts or (sys.stdin.read(_MAX_CHARS + 1),)
    for text in texts:
        if len(text) > _MAX_CHARS:
            raise UserError(
                f"a text of {len(text):,} characters is too long to look at; "
                f"{_MAX_CHARS:,} are the most"
            )
    if explain:
        _explain(texts, console)
        return
    names = tokenizers or (OURS,)
    loaded = [(name, find_tokenizer(name)) for name in names]
    shown = [[view_tokens(name, text, t) for name, t in loaded] for text in texts]
    if console.json_output:
        console.document([[_as_json(view) for view in views] for views in shown])
        return
    for views in shown:
        console.out(render(views, shutil.get_terminal_size().columns, console.has_colour))


def run_conversations(file: Path, tokenizers: tuple[str, ...], console: Console) -> None:
    """Show the first conversations of a file as a model is trained on them.

    Args:
        file: in any form that `llmpipe sft` reads.
        tokenizers: the name of one, with chat tokens; none means `ours`.

    Raises:
        UserError: if the tokenizer has no chat tokens, or several are named.
        InputError: if the file cannot be read, or none of its rows can.
    """
    if len(tokenizers) > 1:
        raise UserError("conversations are shown with one tokenizer", f"try {tokenizers[0]} alone")
    name = tokenizers[0] if tokenizers else OURS
    tokenizer = find_tokenizer(name)
    if IM_START not in tokenizer.special:
        raise UserError(f"`{name}` has no chat tokens", "name one that `llmpipe tokenize` made")
    conversations, errors = read_conversations(file, file.name, limit=_N_CONVERSATIONS)
    for error in errors:
        console.warn(str(error))
    if not conversations:
        raise InputError(f"{file}: no conversation can be read")
    rendered = [render_conversation(c.messages, tokenizer) for c in conversations]
    if console.json_output:
        console.document([{"ids": r.ids, "mask": r.mask} for r in rendered])
        return
    for one in rendered:
        console.out(token_view(one, tokenizer, console.has_colour) + "\n")


def _as_json(view: View) -> dict[str, object]:
    return {
        "tokenizer": view.name,
        "n_tokens": len(view.pieces),
        "n_bytes": view.n_bytes,
        "ids": [piece.id for piece in view.pieces],
        "pieces": [piece.shown for piece in view.pieces],
        "special": [piece.id for piece in view.pieces if piece.is_special],
    }


def render(views: Sequence[View], width: int, has_color: bool) -> str:
    """Return views of one text as lines: side by side where they fit, else one below the other."""
    n_beside = max(1, min(len(views), width // _MIN_WIDTH))
    tables = []
    for start in range(0, len(views), n_beside):
        table = Table(box=None, padding=(0, 2, 0, 0), show_header=False, expand=n_beside > 1)
        row = views[start : start + n_beside]
        for _ in row:
            table.add_column(ratio=1, overflow="fold")
        table.add_row(*(_heading(view) for view in row))
        table.add_row(*(_pieces(view) for view in row))
        table.add_row(*(_ids(view) for view in row))
        tables.append(drawn(table, width, has_color))
    return "\n".join(tables)


def _heading(view: View) -> Text:
    n = len(view.pieces)
    number = f"{n} token{'' if n == 1 else 's'}, {view.bytes_per_token:.2f} bytes per token"
    return Text.assemble((Path(view.name).name, "bold"), f"  {number}")


def _pieces(view: View) -> Text:
    """Return the pieces with a bar between them, so that color is not needed to tell them apart."""
    text = Text()
    for i, piece in enumerate(view.pieces):
        if i and not view.pieces[i - 1].ends_line:
            text.append("|", "dim")
        text.append(piece.shown, _SPECIAL if piece.is_special else _STYLES[i % len(_STYLES)])
        if piece.ends_line:
            text.append("\n")
    return text


def _ids(view: View) -> Text:
    ids = (Text(str(piece.id), _SPECIAL if piece.is_special else "") for piece in view.pieces)
    return Text(" ").join(ids)


def _explain(texts: Sequence[str], console: Console) -> None:
    if console.json_output:
        console.document([list(twin.explain(text, _N_EXPLAINED)) for text in texts])
        return
    for text in texts:
        console.out("The most frequent pair of neighbors gets the next free id, again and again:")
        for line in twin.explain(text, _N_EXPLAINED):
            console.out(f"  {line}")
