r"""One assistant turn while it is written: tokens come in, what a reader should see comes out.

Everything that answers goes through here: `llmpipe chat`, the `eval` stage, the HTTP server. The turn is a
sequence of pieces, each opened and closed by control tokens (`render.py` draws it), so a reply is a
state machine whose state is the piece that is being written:

    text     <|python_start|> →  call     <|python_end|> →  waits for the tool
    text     <|think_start|>  →  thought  <|think_end|>  →  text
    waits    <|output_start|> →  output   <|output_end|> →  text

A turn holds two kinds of tokens. Most are sampled: the model chose them. The others are injected:
what a tool has printed, or the end of a thought that got too long. To the model both look alike; it reads
one sequence. But only the sampled ones are its own doing, so only they may be trained or scored: `mask`
says which they are, as the mask of `render` does for conversations that somebody else has written.

A reply does no input and output (the pattern is called sans-IO): it knows no engine, runs no tool and
waits for nobody. `push` takes a sampled token, `give` takes a tool's output, and both return events; what
is to be injected lies ready in `take_injected`, and `settle` brings it into the engine. So one state
machine serves a loop that waits for its tools (`generate.py`) and a server that meanwhile goes on with
other answers (`apps/serve/worker.py`).
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Literal

from llmpipe.assistant.events import (
    AddedTokens,
    Done,
    Event,
    TextDelta,
    ThinkDelta,
    ToolCall,
    ToolResult,
)
from llmpipe.assistant.frames import frame_for
from llmpipe.assistant.render import Message, Part, Text, Thought, ToolOutput
from llmpipe.assistant.rules import (
    ANSWER_TOKENS,
    MAX_OUTPUT_TOKENS,
    MIN_OUTPUT_TOKENS,
    ReplyRules,
    thought_ids,
)
from llmpipe.assistant.tool_list import TOOLS
from llmpipe.assistant.tools import ToolName
from llmpipe.inference.engine import Engine, LogProb, Reason, Token
from llmpipe.inference.stop_strings import StopStrings
from llmpipe.tokenizer.bpe import StreamDecoder, Tokenizer
from llmpipe.tokenizer.special import OUTPUT_END, OUTPUT_START, THINK_END, THINK_START

_OPENINGS: dict[str, ToolName] = {form.start: name for name, form in TOOLS.items()}
_CLOSINGS: dict[str, ToolName] = {form.end: name for name, form in TOOLS.items()}


Inside = Literal["text", "thought", "output"] | ToolName
"""What kind of piece is being written; the name of a tool stands for a call of it."""


class Reply:
    """An assistant's turn in the making.

    Args:
        tokenizer: decodes the ids.
        rules: what may be written.
        show_special: print control tokens by their spelling, in place of thoughts, calls and results.

    Attributes:
        ids: all ids of the turn so far, injected ones included.
        mask: per id, whether the model chose it.
        logprobs: per id, how likely it was; None for injected ones, and where nobody asked.
        prompt_logprobs: of the prompt's tokens, if the engine was asked for them.
        parts: the finished pieces so far.
        call: the call that waits for its output.
        done: how it ended, once it has.
        n_sampled: ids that the model chose.
        n_thought: ids inside thoughts.
    """

    def __init__(
        self, tokenizer: Tokenizer, rules: ReplyRules | None = None, show_special: bool = False
    ) -> None:
        self.rules = rules or ReplyRules()
        self.tokenizer = tokenizer
        self._show_special = show_special
        is_plain = self.rules.is_plain
        self._names = {} if is_plain else {id: name for name, id in tokenizer.special.items()}
        begin, end = frame_for(tokenizer).think
        self._thought_marks = ({begin, THINK_START}, {end, THINK_END})
        self._decoder = StreamDecoder(tokenizer, show_special=not is_plain)
        self._stops = StopStrings(self.rules.stops)
        self._inside: Inside = "text"
        self._text = ""  # of the piece that is being written
        self._injected: list[int] | None = None
        self._started = time.monotonic()
        self._first_token_s = 0.0
        self.ids: list[int] = []
        self.mask: list[bool] = []
        self.logprobs: list[LogProb | None] = []
        self.prompt_logprobs: tuple[LogProb, ...] = ()
        self.parts: list[Part] = []
        self.call: ToolCall | None = None
        self.done: Done | None = None
        self.n_sampled = 0
        self.n_thought = 0

    @property
    def is_thinking(self) -> bool:
        """Whether the piece that is being written is a thought."""
        return self._inside == "thought"

    @property
    def message(self) -> Message:
        """The turn so far; a tool call that was not finished is left out."""
        rest: list[Part] = []
        if self._text and self._inside in ("text", "thought"):
            rest = [Text(self._text) if self._inside == "text" else Thought(self._text)]
        return Message("assistant", (*self.parts, *rest) or "")

    def begin(self, ids: Sequence[int]) -> list[Event]:
        """Take ids that the turn begins with, which the model is to continue.

        Calls in there were carried out by whoever wrote them. Only one that ends the ids can still
        wait for its output; `give` takes it, if the tool is run here.
        """
        events = self._inject(ids)
        if self.call and self.call.tool not in self.rules.runs:
            self.call = None
        return events

    def push(self, token: Token, room: int) -> list[Event]:
        """Take one sampled token; return the events that follow from it.

        Args:
            token: of the engine.
            room: ids that could be injected now (`Engine.room`).
        """
        self.n_sampled += 1
        if self.n_sampled == 1:
            self._first_token_s = time.monotonic() - self._started
            self.prompt_logprobs = token.prompt_logprobs or ()
        self._note([token.id], True, token.logprob)
        is_end = token.reason == "stop"
        events: list[Event] = [AddedTokens((token.id,), True, token.logprob, is_end)]
        if not is_end or token.id in self._names:  # a stop token without a name is no text either
            self._take(token.id, events)
        if self._stops.found is not None:
            self._finish("stop", events)
        elif token.reason:
            self._finish(token.reason, events)
        elif token.is_paused and not self.call:
            self._injected = []  # a closing token that closed nothing: the row continues
        elif self._has_thought_enough() and room > 0:
            _, end = thought_ids(self.tokenizer)
            if end is not None:
                events += self._inject([end])
        return events

    def give(self, output: str, room: int) -> list[Event]:
        """Take the output of the tool that `call` waits for; return the events that follow from it.

        The output is cut: to `MAX_OUTPUT_TOKENS`, and in a short context to what leaves
        `ANSWER_TOKENS` free. Where there is no room for any, the reply ends.

        Args:
            output: text, which is encoded as such: a page that spells `<|im_end|>` ends nothing.
            room: ids that could be injected now.
        """
        if room < MIN_OUTPUT_TOKENS:
            events: list[Event] = []
            self._finish("context", events)
            return events
        # What is cut is the end of the output. A model that reads half of it can still answer; one
        # whose context is full cannot say a word.
        most = min(max(room - ANSWER_TOKENS, MIN_OUTPUT_TOKENS), MAX_OUTPUT_TOKENS)
        return self._inject(output_ids(output, self.tokenizer, most))

    def take_injected(self) -> list[int] | None:
        """Return the ids to be put into the sequence, once; None if the model continues by itself.

        An empty list lets a paused row continue with nothing injected.
        """
        injected, self._injected = self._injected, None
        return injected

    # -- the state machine ---------------------------------------------------------------------

    def _inject(self, ids: Sequence[int]) -> list[Event]:
        self._injected = list(ids)
        self._note(ids, False)
        events: list[Event] = [AddedTokens(tuple(ids), False)]
        for id in ids:
            self._take(id, events)
        return events

    def _note(self, ids: Sequence[int], is_sampled: bool, logprob: LogProb | None = None) -> None:
        self.ids += ids
        self.mask += [is_sampled] * len(ids)
        self.logprobs += [logprob] * len(ids)

    def _take(self, id: int, events: list[Event]) -> None:
        """Move on by one id, sampled or not."""
        name = self._names.get(id)
        if name is None:
            self.n_thought += self.is_thinking
            self._more(self._decoder.push(id), events)
            return
        # No character reaches over a control token: what is left of one comes out as U+FFFD.
        self._more(self._decoder.flush(), events)
        if self._show_special:
            events.append(TextDelta(name))
        begins, ends = self._thought_marks
        if name in begins:
            self._open("thought")
        elif name in ends and self.is_thinking:
            self._open("text")
        elif name in _OPENINGS:
            self._open(_OPENINGS[name])
        elif name in _CLOSINGS and _CLOSINGS[name] == self._inside:
            self._close_call(_CLOSINGS[name], events)
        elif name == OUTPUT_START and self.call:
            self._open("output")
        elif name == OUTPUT_END and self._inside == "output":
            self._close_output(events)
        # All others, and marks that open or close nothing, are no more than ids of the sequence.

    def _more(self, text: str, events: list[Event]) -> None:
        """Add text to the piece that is being written."""
        if self._inside == "text":
            text = self._stops.push(text)
        self._text += text
        if text and (self._show_special or self._inside == "text"):
            events.append(TextDelta(text))
        elif text and self.is_thinking:
            events.append(ThinkDelta(text))

    def _open(self, inside: Inside) -> None:
        """Keep the piece that was being written, and begin another; half a call is no piece."""
        if self._text and self._inside in ("text", "thought"):
            self.parts.append(Text(self._text) if self._inside == "text" else Thought(self._text))
        self._text, self._inside = "", inside

    def _close_call(self, tool: ToolName, events: list[Event]) -> None:
        call = ToolCall(tool, self._text)
        self.parts.append(TOOLS[tool].part(self._text))
        self._open("text")
        self.call = call
        events.append(call)

    def _close_output(self, events: list[Event]) -> None:
        assert self.call, "an output is the output of a call"
        self.parts.append(ToolOutput(self._text))
        events.append(ToolResult(self.call.tool, self._text))
        self.call = None
        self._open("text")

    def _has_thought_enough(self) -> bool:
        most = self.rules.max_thought
        return self.is_thinking and most is not None and self.n_thought >= most

    def _finish(self, reason: Reason, events: list[Event]) -> None:
        self._more(self._decoder.flush(), events)
        if held := self._stops.flush():  # the beginning of a stop string that did not come
            self._text += held
            events.append(TextDelta(held))
        self._open("text")
        self.call = None
        seconds = max(time.monotonic() - self._started, 1e-9)
        self.done = Done(reason, self.n_sampled, self.n_sampled / seconds, self._first_token_s)
        events.append(self.done)


def settle(engine: Engine, request: int, reply: Reply) -> None:
    """Carry out what a reply wants of its row: end it, or inject ids and let it continue."""
    if reply.done:
        engine.cancel(request)
    elif (ids := reply.take_injected()) is not None:
        engine.feed(request, ids)


def room(engine: Engine, token: Token) -> int:
    """Return how many ids can be injected after a token: none where the row has ended with it."""
    return 0 if token.reason else engine.room(token.request)


def output_ids(text: str, tokenizer: Tokenizer, room: int) -> list[int]:
    """Return the ids that bring a tool's output into a sequence, cut to `room` ids in all."""
    body = tokenizer.encode(text)[: room - 2]
    return [tokenizer.special[OUTPUT_START], *body, tokenizer.special[OUTPUT_END]]
