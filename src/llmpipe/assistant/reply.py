"""One assistant turn while it is written: token ids come in, what a reader should see comes out.

The turn is a sequence of pieces, each opened and closed by control tokens (`render.py` draws it).
`Reply` keeps the pieces, turns the ids of the current one into text that is safe to print (never half
a character), and says when a tool is wanted. It runs no tool and knows no engine, so streaming,
evaluation and a server can share it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from llmpipe.assistant.render import Message, Part, PythonCall, SearchCall, Text, ToolOutput
from llmpipe.tokenizer.bpe import Tokenizer
from llmpipe.tokenizer.special import (
    OUTPUT_END,
    OUTPUT_START,
    PYTHON_END,
    PYTHON_START,
    SEARCH_END,
    SEARCH_START,
)

ToolName = Literal["python", "search"]

_OPENING: dict[str, ToolName] = {PYTHON_START: "python", SEARCH_START: "search"}
_CLOSING: dict[str, ToolName] = {PYTHON_END: "python", SEARCH_END: "search"}
PAUSE_TOKENS: tuple[str, ...] = tuple(_CLOSING)
"""After these the model waits for a tool."""

Reason = Literal["stop", "length", "context"]
"""The stop token, `max_tokens`, or a full context."""


@dataclass(frozen=True)
class TextDelta:
    """Some more of the answer's text."""

    text: str


@dataclass(frozen=True)
class ToolCall:
    """The assistant asks a tool; the result follows."""

    tool: ToolName
    text: str


@dataclass(frozen=True)
class ToolResult:
    """What the tool gave back, as the assistant gets to read it."""

    tool: ToolName
    text: str


@dataclass(frozen=True)
class Done:
    """The end of a reply.

    Attributes:
        reason: why it ended.
        n_tokens: sampled; without prompt and tool outputs.
        tok_per_s: sampled tokens by the time from the request to the end.
        first_token_s: time from the request to the first token.
    """

    reason: Reason
    n_tokens: int
    tok_per_s: float
    first_token_s: float


Event = TextDelta | ToolCall | ToolResult | Done


class Reply:
    """An assistant's turn in the making.

    Args:
        tokenizer: decodes the ids.
        show_special: print control tokens by their spelling, in place of calls and their results.

    Attributes:
        parts: the finished pieces so far.
        ids: all ids of the turn so far, forced ones included.
    """

    def __init__(self, tokenizer: Tokenizer, show_special: bool = False) -> None:
        self._tokenizer = tokenizer
        self._show_special = show_special
        self._names = {id: name for name, id in tokenizer.special.items()}
        self._decoder = tokenizer.stream_decoder()
        self._text = ""  # of the piece that is being written
        self._tool: ToolName | None = None  # None: that piece is text for the reader
        self.parts: list[Part] = []
        self.ids: list[int] = []

    @property
    def message(self) -> Message:
        """The turn so far; a tool call that was not finished is left out."""
        rest = [Text(self._text)] if self._text and self._tool is None else []
        return Message("assistant", (*self.parts, *rest) or "")

    def push(self, id: int) -> Iterator[TextDelta | ToolCall]:
        """Take one sampled id; yield what it completes."""
        self.ids.append(id)
        name = self._names.get(id)
        if name is None:
            yield from self._more(self._decoder.push(id))
            return
        yield from self._more(self._decoder.flush())
        if self._show_special:
            yield TextDelta(name)
        if name in _OPENING:
            self._close(is_finished=self._tool is None)
            self._tool = _OPENING[name]
        elif self._tool and _CLOSING.get(name) == self._tool:
            yield ToolCall(self._tool, self._text)
            self._close()

    def push_output(self, tool: ToolName, ids: list[int]) -> Iterator[TextDelta | ToolResult]:
        """Take the ids of a tool's output, as forced into the sequence with its control tokens."""
        self.ids.extend(ids)
        text = self._tokenizer.decode(ids, show_special=False)
        self.parts.append(ToolOutput(text))
        if self._show_special:
            yield TextDelta(self._tokenizer.decode(ids))
        yield ToolResult(tool, text)

    def finish(self) -> Iterator[TextDelta]:
        """End the turn: what is left of a cut character comes out as U+FFFD."""
        yield from self._more(self._decoder.flush())
        self._close(is_finished=self._tool is None)

    def _more(self, text: str) -> Iterator[TextDelta]:
        self._text += text
        if text and (self._tool is None or self._show_special):
            yield TextDelta(text)

    def _close(self, is_finished: bool = True) -> None:
        """Turn the piece being written into a part, and begin a text."""
        if is_finished and self._tool == "python":
            self.parts.append(PythonCall(self._text))
        elif is_finished and self._tool == "search":
            self.parts.append(SearchCall(self._text))
        elif is_finished and self._text:
            self.parts.append(Text(self._text))
        self._text, self._tool = "", None


def output_ids(text: str, tokenizer: Tokenizer, room: int) -> list[int]:
    """Return the ids that bring a tool's output into a sequence, cut to `room` ids in all.

    The text is encoded as ordinary text: a web page that spells out `<|im_end|>` ends nothing.
    """
    body = tokenizer.encode(text)[: room - 2]
    return [tokenizer.special[OUTPUT_START], *body, tokenizer.special[OUTPUT_END]]
