"""A conversation as the model reads it: no turns and no roles, one sequence of ids with a mask for training."""

from __future__ import annotations

import shutil

from rich.text import Text

from llmpipe.apps.printable import drawn, printable
from llmpipe.assistant.render import Rendered
from llmpipe.tokenizer.bpe import StreamDecoder, Tokenizer


def token_view(rendered: Rendered, tokenizer: Tokenizer, has_color: bool) -> str:
    """Return every token as its text and id; those the model is trained to write carry a `+`."""
    control = set(tokenizer.special.values())
    view = Text()
    for id, is_trained in zip(rendered.ids, rendered.mask, strict=True):
        shown = spelling(tokenizer.token_bytes(id), id in control)
        style = "green" if is_trained else "magenta" if id in control else ""
        view.append(f"{'+' if is_trained else ''}{shown}", style)
        view.append(f"\N{NO-BREAK SPACE}{id}", "dim")
        view.append("   ")
    n_trained = sum(rendered.mask)
    view.append(
        f"\n{len(rendered.ids)} tokens, {n_trained} of them (+) the model is trained to write"
    )
    return drawn(view, shutil.get_terminal_size().columns, has_color)


def raw_view(rendered: Rendered, tokenizer: Tokenizer, has_color: bool) -> str:
    """Return the whole sequence as one text, as the model reads it, with the borders of its tokens.

    The borders are `|`, or alternating colors.
    """
    control = set(tokenizer.special.values())
    decoder = StreamDecoder(tokenizer)
    pieces = []
    for i, id in enumerate(rendered.ids):
        # A character of several tokens appears where it ends, as in a streamed answer.
        text = printable(decoder.push(id)).replace("\n", "⏎\n")
        if has_color:
            code = "35;1" if id in control else ("44;97", "42;30", "43;30", "46;30")[i % 4]
            lines = [f"\x1b[{code}m{line}\x1b[0m" if line else "" for line in text.split("\n")]
            pieces.append("\n".join(lines))
        else:
            pieces.append(text)
    return ("" if has_color else "|").join(pieces) + f"\n{len(rendered.ids)} tokens"


def spelling(token: bytes, is_control: bool) -> str:
    """Return a token as Python would write it: text where it is text, bytes where it is not."""
    try:
        text = token.decode("utf-8")
    except UnicodeDecodeError:
        return repr(token)
    # A no-break space inside, too, so that a token and its id stay on one line.
    return text if is_control else repr(text).replace(" ", "\N{NO-BREAK SPACE}")
