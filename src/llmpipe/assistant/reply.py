"""One assistant turn while it is written: token ids come in, what a reader should see comes out.

The turn is a sequence of pieces, each opened and closed by control tokens (`render.py` draws it).
`Reply` keeps the pieces, turns the ids of the current one into text that is safe to print (never half
a character), keeps thoughts apart from the answer, and says when a tool is wanted. It runs no tool and
knows no engine, so streaming and evaluation can share it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from llmpipe.assistant.frames import frame_for
from llmpipe.assistant.render import (
    Message,
    Part,
    PythonCall,
    SearchCall,
    Text,
    Thought,
    ToolOutput,
)
from llmpipe.assistant.tools import ToolName
from llmpipe.tokenizer.bpe import Tokenizer
from llmpipe.tokenizer.special import (
    OUTPUT_END,
    OUTPUT_START,
    PYTHON_END,
    PYTHON_START,
    SEARCH_END,
    SEARCH_START,
    THINK_END,
    THINK_START,
)

OPENINGS: dict[ToolName, str] = {"python": PYTHON_START, "search": SEARCH_START}
"""The token that a call of each tool begins with."""

TOOL_OPENINGS: dict[str, ToolName] = {token: tool for tool, token in OPENINGS.items()}
TOOL_CLOSINGS: dict[str, ToolName] = {PYTHON_END: "python", SEARCH_END: "search"}
PAUSE_TOKENS: tuple[str, ...] = tuple(TOOL_CLOSINGS)
"""After these the model waits for a tool."""

Inside = Literal["text", "thought"] | ToolName

Reason = Literal["stop", "length", "context"]
"""The stop token, `max_tokens`, or a full context."""


@dataclass(frozen=True)
class TextDelta:
    """Some more of the answer's text."""

    text: str


@dataclass(frozen=True)
class ThinkDelta:
    """Some more of what the assistant thinks before it answers."""

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
        n_tokens: sampled; without prompt and tool outputs, with thoughts.
        tok_per_s: sampled tokens by the time from the request to the end.
        first_token_s: time from the request to the first token.
    """

    reason: Reason
    n_tokens: int
    tok_per_s: float
    first_token_s: float


Event = TextDelta | ThinkDelta | ToolCall | ToolResult | Done


class Reply:
    """An assistant's turn in the making.

    Args:
        tokenizer: decodes the ids.
        show_special: print control tokens by their spelling, in place of thoughts, calls and results.

    Attributes:
        parts: the finished pieces so far.
        ids: all ids of the turn so far, forced ones included.
        n_thought: how many of them stand in thoughts.
    """

    def __init__(self, tokenizer: Tokenizer, show_special: bool = False) -> None:
        self._tokenizer = tokenizer
        self._show_special = show_special
        self._names = {id: name for name, id in tokenizer.special.items()}
        begin, end = frame_for(tokenizer).think
        self._thought_marks = ({begin, THINK_START}, {end, THINK_END})
        self._decoder = tokenizer.stream_decoder()
        self._text = ""  # of the piece that is being written
        self._inside: Inside = "text"
        self.parts: list[Part] = []
        self.ids: list[int] = []
        self.n_thought = 0

    @property
    def is_thinking(self) -> bool:
        """Whether the piece that is being written is a thought."""
        return self._inside == "thought"

    @property
    def message(self) -> Message:
        """The turn so far; a tool call that was not finished is left out."""
        rest: list[Part] = []
        if self._text and self._inside == "text":
            rest = [Text(self._text)]
        elif self._text and self._inside == "thought":
            rest = [Thought(self._text)]
        return Message("assistant", (*self.parts, *rest) or "")

    def push(self, id: int) -> Iterator[TextDelta | ThinkDelta | ToolCall]:
        """Take one sampled id; yield what it completes."""
        self.ids.append(id)
        name = self._names.get(id)
        if name is None:
            self.n_thought += self.is_thinking
            yield from self._more(self._decoder.push(id))
            return
        yield from self._more(self._decoder.flush())
        if self._show_special:
            yield TextDelta(name)
        begins, ends = self._thought_marks
        if name in begins:
            self._close(opens="thought")
        elif name in ends and self.is_thinking:
            self._close()
        elif name in TOOL_OPENINGS:
            self._close(opens=TOOL_OPENINGS[name])
        elif name in TOOL_CLOSINGS and TOOL_CLOSINGS[name] == self._inside:
            yield ToolCall(TOOL_CLOSINGS[name], self._text)
            self._close(is_call_whole=True)

    def push_output(self, tool: ToolName, ids: list[int]) -> Iterator[TextDelta | ToolResult]:
        """Take the ids of a tool's output, as forced into the sequence with its control tokens."""
        self.ids.extend(ids)
        text = self._tokenizer.decode(ids, show_special=False)
        self.parts.append(ToolOutput(text))
        if self._show_special:
            yield TextDelta(self._tokenizer.decode(ids))
        yield ToolResult(tool, text)

    def finish(self) -> Iterator[TextDelta | ThinkDelta]:
        """End the turn: what is left of a cut character comes out as U+FFFD."""
        yield from self._more(self._decoder.flush())
        self._close()

    def _more(self, text: str) -> Iterator[TextDelta | ThinkDelta]:
        self._text += text
        if not text:
            return
        if self._show_special or self._inside == "text":
            yield TextDelta(text)
        elif self.is_thinking:
            yield ThinkDelta(text)

    def _close(self, opens: Inside = "text", is_call_whole: bool = False) -> None:
        """Turn the piece being written into a part, if it is whole, and begin another."""
        if self._inside == "python" and is_call_whole:
            self.parts.append(PythonCall(self._text))
        elif self._inside == "search" and is_call_whole:
            self.parts.append(SearchCall(self._text))
        elif self._inside in ("text", "thought") and self._text:
            part = Text if self._inside == "text" else Thought
            self.parts.append(part(self._text))
        self._text, self._inside = "", opens


def output_ids(text: str, tokenizer: Tokenizer, room: int) -> list[int]:
    """Return the ids that bring a tool's output into a sequence, cut to `room` ids in all.

    The text is encoded as ordinary text: a web page that spells out `<|im_end|>` ends nothing.
    """
    body = tokenizer.encode(text)[: room - 2]
    return [tokenizer.special[OUTPUT_START], *body, tokenizer.special[OUTPUT_END]]
