"""One answer in the making: tokens come in, pieces of what a client is sent come out."""

from __future__ import annotations

import json
import secrets
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from llmpipe.assistant.frames import frame_for
from llmpipe.assistant.reply import TOOL_CLOSINGS, TOOL_OPENINGS
from llmpipe.assistant.tools import ToolName
from llmpipe.inference.engine import LogProb, Token
from llmpipe.inference.stop_strings import StopStrings
from llmpipe.tokenizer.bpe import Tokenizer
from llmpipe.tokenizer.special import (
    OUTPUT_END,
    OUTPUT_START,
    THINK_END,
    THINK_START,
)

FinishReason = Literal["stop", "length", "tool_calls"]

TOOL_ARGUMENTS: dict[str, str] = {"python": "code", "search": "query"}
"""The tools a model of ours can call, each with the name of its one argument."""


@dataclass
class Piece:
    """What one token, or one tool's output, adds to an answer; most fields are empty.

    Attributes:
        text: for the reader.
        reasoning: of a thought.
        tool_calls: that the client is to carry out.
        tool_runs: of the server. In pieces each has an `index`, and `output` comes in a later piece
            than `name` and `input`; in the whole answer each is complete.
        ids: of the tokens.
        mask: per id, whether the model chose it; a tool's output is put in.
        logprobs: of the chosen ones, if they were asked for.
    """

    text: str = ""
    reasoning: str = ""
    tool_calls: list[dict[str, Any]] = field(default_factory=list)
    tool_runs: list[dict[str, Any]] = field(default_factory=list)
    ids: list[int] = field(default_factory=list)
    mask: list[bool] = field(default_factory=list)
    logprobs: list[LogProb] = field(default_factory=list)


class Choice:
    """Turns the tokens of one answer into text, thoughts, tool calls and tool runs.

    Args:
        tokenizer: of the model.
        stops: strings that end the text.
        has_parts: whether thoughts and tool calls are told apart (chat), or control tokens are left out.
        runs: names of the tools that the server runs itself.
        keeps_end: whether the stop token has its log-probability too. OpenAI leaves it out.

    Attributes:
        whole: everything so far.
        given: pieces that are there before the first token is chosen.
        waits_for: the tool and its input, while a tool is to be run.
        finish_reason: set at the end.
        n_tokens: sampled.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        stops: tuple[str, ...],
        has_parts: bool,
        runs: Collection[str] = (),
        keeps_end: bool = False,
    ) -> None:
        self._decoder = tokenizer.stream_decoder(show_special=False)
        self._stops = StopStrings(stops)
        self._names = {id: name for name, id in tokenizer.special.items()} if has_parts else {}
        begin, end = frame_for(tokenizer).think
        self._thought_marks = ({begin, THINK_START}, {end, THINK_END})
        self._inside: str | None = None  # "think", "output", or the name of a tool
        self._inner_text = ""  # of a call or an output
        self._runs = runs
        self._keeps_end = keeps_end
        self.whole = Piece()
        self.given: list[Piece] = []
        self.waits_for: tuple[ToolName, str] | None = None
        self.finish_reason: FinishReason | None = None
        self.n_tokens = 0

    def begin(self, ids: Sequence[int], echo: bool) -> None:
        """Take the ids that the turn begins with.

        Args:
            ids: which the client has sent.
            echo: whether what they say belongs to the answer.
        """
        runs, self._runs = self._runs, TOOL_ARGUMENTS  # calls in there are done, whoever did them
        for id in ids:
            piece = Piece()
            self._take(id, piece)
            self._merge(piece)
            self.given.append(piece)
        self._runs = runs
        if self.waits_for and self.waits_for[0] not in runs:
            self.waits_for = None
        if not echo:
            self.whole, self.given = Piece(), []
            if self.waits_for:  # that call has not been carried out: its run is news
                name, text = self.waits_for
                self.given = [Piece(tool_runs=[{"index": 0, "name": name, "input": text}])]
                self._merge(self.given[0])

    def push(self, token: Token) -> Piece:
        """Take one token; return what it adds."""
        if self.finish_reason:
            return Piece()
        self.n_tokens += 1
        piece = Piece(ids=[token.id], mask=[True])
        if token.logprob and (self._keeps_end or token.reason != "stop"):
            piece.logprobs.append(token.logprob)
        self._take(token.id, piece)
        if self._stops.found is not None:
            self.finish_reason = "stop"
        elif token.reason:
            self._end(token.reason == "stop", piece)
        self._merge(piece)
        return piece

    def push_output(self, ids: Sequence[int], is_over: bool = False) -> Piece:
        """Take a tool's output with the control tokens around it; return what it adds.

        Args:
            ids: put into the sequence.
            is_over: the context is full, and the answer ends here.
        """
        if self.finish_reason:
            return Piece()
        piece = Piece(ids=list(ids), mask=[False] * len(ids))
        for id in ids:
            self._take(id, piece)
        if is_over:
            self._end(False, piece)
        self._merge(piece)
        return piece

    def _end(self, is_stop: bool, piece: Piece) -> None:
        self._add(self._decoder.flush(), piece)
        piece.text += self._stops.flush()
        if self.whole.tool_calls or piece.tool_calls:
            self.finish_reason = "tool_calls"
        else:
            self.finish_reason = "stop" if is_stop else "length"

    def _merge(self, piece: Piece) -> None:
        whole = self.whole
        whole.text += piece.text
        whole.reasoning += piece.reasoning
        whole.tool_calls += piece.tool_calls
        whole.ids += piece.ids
        whole.mask += piece.mask
        whole.logprobs += piece.logprobs
        for run in piece.tool_runs:
            rest = {key: value for key, value in run.items() if key != "index"}
            if run["index"] < len(whole.tool_runs):
                whole.tool_runs[run["index"]] |= rest
            else:
                whole.tool_runs.append({"output": None} | rest)

    def _take(self, id: int, piece: Piece) -> None:
        name = self._names.get(id)
        if name is None:
            self._add(self._decoder.push(id), piece)
            return
        self._add(self._decoder.flush(), piece)
        if name in self._thought_marks[0]:
            self._inside = "think"
        elif name in self._thought_marks[1]:
            self._inside = None
        elif name in TOOL_OPENINGS:
            self._inside, self._inner_text = TOOL_OPENINGS[name], ""
        elif name in TOOL_CLOSINGS and TOOL_CLOSINGS[name] == self._inside:
            self._close_call(TOOL_CLOSINGS[name], piece)
        elif name == OUTPUT_START and self.waits_for:
            self._inside, self._inner_text, self.waits_for = "output", "", None
        elif name == OUTPUT_END and self._inside == "output":
            n = len(self.whole.tool_runs)
            piece.tool_runs.append({"index": n - 1, "output": self._inner_text})
            self._inside = None

    def _close_call(self, tool: ToolName, piece: Piece) -> None:
        if tool in self._runs:
            n = len(self.whole.tool_runs)
            piece.tool_runs.append({"index": n, "name": tool, "input": self._inner_text})
            self.waits_for = (tool, self._inner_text)
        else:
            piece.tool_calls.append(_tool_call(tool, self._inner_text))
        self._inside = None

    def _add(self, text: str, piece: Piece) -> None:
        if self._inside is None:
            piece.text += self._stops.push(text)
        elif self._inside == "think":
            piece.reasoning += text
        else:
            self._inner_text += text


def _tool_call(tool: str, text: str) -> dict[str, Any]:
    arguments = json.dumps({TOOL_ARGUMENTS[tool]: text})
    return {
        "id": f"call_{secrets.token_hex(12)}",
        "type": "function",
        "function": {"name": tool, "arguments": arguments},
    }
