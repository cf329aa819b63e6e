"""One answer in the making: tokens come in, pieces of what a client is sent come out."""

from __future__ import annotations

import json
import secrets
from dataclasses import dataclass, field
from typing import Any, Literal

from llmpipe.inference.engine import LogProb, Token
from llmpipe.inference.stop_strings import StopStrings
from llmpipe.tokenizer.bpe import Tokenizer
from llmpipe.tokenizer.special import (
    PYTHON_END,
    PYTHON_START,
    SEARCH_END,
    SEARCH_START,
    THINK_END,
    THINK_START,
)

FinishReason = Literal["stop", "length", "tool_calls"]

TOOL_ARGUMENTS = {"python": "code", "search": "query"}
"""The tools a model of ours can call, each with the name of its one argument."""
TOOL_OPENINGS = {PYTHON_START: "python", SEARCH_START: "search"}
TOOL_CLOSINGS = (PYTHON_END, SEARCH_END)


@dataclass
class Piece:
    """What one token adds to an answer; most fields are empty."""

    text: str = ""
    reasoning: str = ""
    tool_calls: list[dict[str, Any]] = field(default_factory=list)
    logprobs: list[LogProb] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.text or self.reasoning or self.tool_calls or self.logprobs)


class Choice:
    """Turns the tokens of one answer into text, thoughts and tool calls.

    Args:
        tokenizer: of the model.
        stops: strings that end the text.
        has_parts: whether thoughts and tool calls are told apart (chat), or control tokens are left out.

    Attributes:
        whole: everything so far.
        finish_reason: set at the end.
        n_tokens: sampled.
    """

    def __init__(self, tokenizer: Tokenizer, stops: tuple[str, ...], has_parts: bool) -> None:
        self._decoder = tokenizer.stream_decoder(show_special=False)
        self._stops = StopStrings(stops)
        self._names = {id: name for name, id in tokenizer.special.items()} if has_parts else {}
        self._inside: str | None = None  # "think", or the name of a tool
        self._tool_text = ""
        self.whole = Piece()
        self.finish_reason: FinishReason | None = None
        self.n_tokens = 0

    def push(self, token: Token) -> Piece:
        """Take one token; return what it adds."""
        if self.finish_reason:
            return Piece()
        self.n_tokens += 1
        piece = Piece()
        if token.logprob and token.reason != "stop":
            piece.logprobs.append(token.logprob)
        self._take(token.id, piece)
        if self._stops.found is not None:
            self.finish_reason = "stop"
        elif token.reason:
            self._add(self._decoder.flush(), piece)
            piece.text += self._stops.flush()
            if self.whole.tool_calls or piece.tool_calls:
                self.finish_reason = "tool_calls"
            else:
                self.finish_reason = "stop" if token.reason == "stop" else "length"
        self.whole.text += piece.text
        self.whole.reasoning += piece.reasoning
        self.whole.tool_calls += piece.tool_calls
        self.whole.logprobs += piece.logprobs
        return piece

    def _take(self, id: int, piece: Piece) -> None:
        name = self._names.get(id)
        if name is None:
            self._add(self._decoder.push(id), piece)
            return
        self._add(self._decoder.flush(), piece)
        if name == THINK_START:
            self._inside = "think"
        elif name == THINK_END:
            self._inside = None
        elif name in TOOL_OPENINGS:
            self._inside, self._tool_text = TOOL_OPENINGS[name], ""
        elif name in TOOL_CLOSINGS and self._inside in TOOL_ARGUMENTS:
            piece.tool_calls.append(_tool_call(self._inside, self._tool_text))
            self._inside = None

    def _add(self, text: str, piece: Piece) -> None:
        if self._inside is None:
            piece.text += self._stops.push(text)
        elif self._inside == "think":
            piece.reasoning += text
        else:
            self._tool_text += text


def _tool_call(tool: str, text: str) -> dict[str, Any]:
    arguments = json.dumps({TOOL_ARGUMENTS[tool]: text})
    return {
        "id": f"call_{secrets.token_hex(12)}",
        "type": "function",
        "function": {"name": tool, "arguments": arguments},
    }


def chat_logprobs(logprobs: list[LogProb], tokenizer: Tokenizer) -> dict[str, Any]:
    """Return log-probabilities in the shape of chat completions."""

    def entry(id: int, logprob: float) -> dict[str, Any]:
        data = tokenizer.token_bytes(id)
        # JSON has no minus infinity; -9999 is what OpenAI sends for a token that cannot come.
        shown = max(logprob, -9999.0)
        return {"token": data.decode(errors="replace"), "logprob": shown, "bytes": list(data)}

    known = tokenizer.vocab_size
    content = [
        entry(of.id, of.logprob)
        | {"top_logprobs": [entry(id, logprob) for id, logprob in of.top if id < known]}
        for of in logprobs
    ]
    return {"content": content, "refusal": None}


def completion_logprobs(
    logprobs: list[LogProb | None], first_id: int | None, tokenizer: Tokenizer, offset: int
) -> dict[str, Any]:
    """Return log-probabilities in the shape of completions.

    Args:
        logprobs: of the tokens in order; None for a first token that nothing stands in front of.
        first_id: the id of that first token.
        tokenizer: of the model.
        offset: of the first token in the answer's text.
    """
    tokens, offsets = [], []
    for of in logprobs:
        id = first_id if of is None else of.id
        assert id is not None
        tokens.append(tokenizer.token_bytes(id).decode(errors="replace"))
        offsets.append(offset)
        offset += len(tokens[-1])

    def top(of: LogProb) -> dict[str, float]:
        pairs = [(id, lp) for id, lp in (*of.top, (of.id, of.logprob)) if id < tokenizer.vocab_size]
        # Tokens of single bytes can share a spelling: the likelier one stays.
        best: dict[str, float] = {}
        for id, logprob in pairs:
            best.setdefault(
                tokenizer.token_bytes(id).decode(errors="replace"), max(logprob, -9999.0)
            )
        return best

    return {
        "tokens": tokens,
        "token_logprobs": [None if of is None else max(of.logprob, -9999.0) for of in logprobs],
        "top_logprobs": [None if of is None else top(of) for of in logprobs],
        "text_offset": offsets,
    }
