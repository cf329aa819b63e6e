r"""Conversations as one token sequence: the protocol, in one place.

    <|bos|>
    <|im_start|>user\n     What is 37 + 45?                      <|im_end|>\n
    <|im_start|>assistant\n
        <|python_start|> 37+45 <|python_end|>                      trained
        <|output_start|> 82 <|output_end|>                         put in by the engine, not trained
        37 + 45 = 82.                              <|im_end|>      trained;  \n  not trained

The sequence is built id by id, never as one string that is tokenized afterwards. So a control token
can only come from here: a user who types `<|im_end|>` sends ten ordinary characters, while engines
that render a string first turn them into the real token.

`mask` marks what the model is trained to write: an assistant's content with the `<|im_end|>` that
ends it. A model that is never trained on the end never stops.

A thought, `<|think_start|>…<|think_end|>`, is written before an answer and forgotten when the user
speaks again: `render` leaves it out of earlier turns. So what a model reads is always what it read
before with something added, but for thoughts that have done their work.

Imported models keep their own marks of turns (`frames.py`); the drawing above is of ours.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, get_args

from llmpipe.assistant.frames import Frame, frame_for
from llmpipe.core.errors import UserError
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

Role = Literal["system", "user", "assistant", "tool"]
ROLES: tuple[Role, ...] = get_args(Role)


@dataclass(frozen=True)
class Text:
    """Words meant for the reader."""

    text: str


@dataclass(frozen=True)
class PythonCall:
    """Code the assistant wants to have run."""

    code: str


@dataclass(frozen=True)
class SearchCall:
    """A query the assistant wants to have answered."""

    query: str


@dataclass(frozen=True)
class ToolOutput:
    """What a tool gave back; the assistant reads it, and is not trained to write it."""

    text: str


@dataclass(frozen=True)
class Thought:
    """What the assistant writes for itself before it answers."""

    text: str


Part = Text | PythonCall | SearchCall | ToolOutput | Thought


@dataclass(frozen=True)
class Message:
    """One turn; a plain string as content is the same as one `Text`.

    Raises:
        UserError: if the role is unknown, or one other than the assistant calls tools.
    """

    role: Role
    content: str | Sequence[Part]
    is_trained: bool = True
    """False for an assistant's turn that is read and not learned; other roles never are."""

    def __post_init__(self) -> None:
        if self.role not in ROLES:
            raise UserError(f"unknown role `{self.role}`", hint=f"roles are {', '.join(ROLES)}")
        if self.role != "assistant" and any(not isinstance(part, Text) for part in self.parts):
            raise UserError(
                f"a message of role `{self.role}` holds a tool call, a tool output or a thought"
            )

    @property
    def parts(self) -> tuple[Part, ...]:
        """The content as parts, with neighboring texts joined."""
        if isinstance(self.content, str):
            return (Text(self.content),)
        joined: list[Part] = []
        for part in self.content:
            if isinstance(part, Text) and joined and isinstance(joined[-1], Text):
                joined[-1] = Text(joined[-1].text + part.text)
            else:
                joined.append(part)
        return tuple(joined)

    @property
    def text(self) -> str:
        """The words meant for the reader, without tool calls, their outputs and thoughts."""
        return "".join(part.text for part in self.parts if isinstance(part, Text))

    @property
    def has_thought(self) -> bool:
        """Whether a part is a thought."""
        return any(isinstance(part, Thought) for part in self.parts)

    def without_thoughts(self) -> Message:
        """Return the message as later turns see it."""
        if not self.has_thought:
            return self
        parts = [part for part in self.parts if not isinstance(part, Thought)]
        return Message(self.role, parts, self.is_trained)


@dataclass(frozen=True)
class Rendered:
    """Token ids of a conversation; `mask[i]` tells whether `ids[i]` is trained."""

    ids: list[int] = field(default_factory=list)
    mask: list[bool] = field(default_factory=list)

    def add(self, ids: Sequence[int], trained: bool) -> None:
        """Append ids that share one mask value."""
        self.ids.extend(ids)
        self.mask.extend([trained] * len(ids))


def render(
    messages: Sequence[Message],
    tokenizer: Tokenizer,
    add_generation_prompt: bool = False,
    frame: Frame | None = None,
) -> Rendered:
    """Return the ids and the training mask of a conversation.

    The result for the first k messages is a prefix of the result for more of them, and with
    `add_generation_prompt` (an open assistant turn) it is a prefix of any reply to it. Only a new
    message of the user takes something away: the thoughts before it.

    `frame` marks the turns; None is the frame of the tokenizer's model.
    """
    frame = frame or frame_for(tokenizer)
    special = tokenizer.special
    rendered = Rendered()
    if frame.front:
        rendered.add([special[frame.front]], trained=False)
    for message in forget_thoughts(messages):
        if message.role == "assistant":
            _open_turn(rendered, "assistant", "", tokenizer, frame)
            for part in _trimmed(message.parts) if frame.is_trimmed else message.parts:
                is_trained = message.is_trained and not isinstance(part, ToolOutput)
                rendered.add(part_ids(part, tokenizer, frame), is_trained)
        else:
            # Gap and text in one piece, as the Jinja template gives them to a tokenizer: the two
            # ways then agree even where a text starts with a newline.
            text = message.text.strip() if frame.is_trimmed else message.text
            _open_turn(rendered, message.role, text, tokenizer, frame)
        rendered.add([special[frame.end]], message.role == "assistant" and message.is_trained)
        rendered.add(tokenizer.encode(frame.after), trained=False)
    if add_generation_prompt:
        _open_turn(rendered, "assistant", "", tokenizer, frame)
    return rendered


def render_for_training(
    messages: Sequence[Message], tokenizer: Tokenizer, frame: Frame | None = None
) -> list[Rendered]:
    """Return the sequences that train each turn of the assistant once, as it is when written.

    That is one sequence, unless there are thoughts in earlier turns. Then the conversation is also
    rendered up to each turn of the user that makes the assistant forget some.
    """
    frame = frame or frame_for(tokenizer)
    ends = [
        i
        for i, message in enumerate(messages)
        if message.role == "user"
        and any(m.has_thought for m in messages[_last_user(messages, i) : i])
    ]
    sequences = []
    start = 0
    for end in (*ends, len(messages)):
        read = [Message(m.role, m.content, is_trained=False) for m in messages[:start]]
        rendered = render([*read, *messages[start:end]], tokenizer, frame=frame)
        if any(rendered.mask):
            sequences.append(rendered)
        start = end
    return sequences


def forget_thoughts(messages: Sequence[Message]) -> list[Message]:
    """Return the messages without the thoughts that come before the last message of the user."""
    last = _last_user(messages, len(messages))
    return [m.without_thoughts() if i < last else m for i, m in enumerate(messages)]


def _last_user(messages: Sequence[Message], stop: int) -> int:
    """Return the place of the last message of the user before `stop`, or 0."""
    return max((i for i in range(stop) if messages[i].role == "user"), default=0)


def _open_turn(
    rendered: Rendered, role: Role, text: str, tokenizer: Tokenizer, frame: Frame
) -> None:
    """Add what a turn begins with, and text that belongs to it."""
    rendered.add([tokenizer.special[frame.start]], trained=False)
    if frame.role_end is None:
        rendered.add(tokenizer.encode(role + frame.gap + text), trained=False)
    else:
        rendered.add(tokenizer.encode(role), trained=False)
        rendered.add([tokenizer.special[frame.role_end]], trained=False)
        rendered.add(tokenizer.encode(frame.gap + text), trained=False)


def _trimmed(parts: tuple[Part, ...]) -> tuple[Part, ...]:
    """Take the whitespace off both ends of a turn."""
    trimmed = list(parts)
    if trimmed and isinstance(trimmed[0], Text):
        trimmed[0] = Text(trimmed[0].text.lstrip())
    if trimmed and isinstance(trimmed[-1], Text):
        trimmed[-1] = Text(trimmed[-1].text.rstrip())
    return tuple(trimmed)


def part_ids(part: Part, tokenizer: Tokenizer, frame: Frame | None = None) -> list[int]:
    """Return the ids of one part of an assistant's message, with the control tokens around it.

    Raises:
        UserError: if the vocabulary lacks those tokens.
    """
    match part:
        case Text(text):
            return tokenizer.encode(text)
        case PythonCall(code):
            return _between(PYTHON_START, code, PYTHON_END, tokenizer)
        case SearchCall(query):
            return _between(SEARCH_START, query, SEARCH_END, tokenizer)
        case ToolOutput(text):
            return _between(OUTPUT_START, text, OUTPUT_END, tokenizer)
        case Thought(text):
            start, end = (frame or frame_for(tokenizer)).think
            if start not in tokenizer.special or end not in tokenizer.special:
                start, end = THINK_START, THINK_END
            return _between(start, text, end, tokenizer)


def _between(start: str, text: str, end: str, tokenizer: Tokenizer) -> list[int]:
    special = tokenizer.special
    if start not in special or end not in special:
        raise UserError(
            f"this vocabulary has no `{start}`", hint="`llmpipe import` adds the tokens of tools"
        )
    return [special[start], *tokenizer.encode(text), special[end]]
