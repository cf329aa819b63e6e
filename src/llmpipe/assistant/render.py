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
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, get_args

from llmpipe.core.errors import UserError
from llmpipe.tokenizer.bpe import Tokenizer
from llmpipe.tokenizer.special import (
    IM_END,
    IM_START,
    OUTPUT_END,
    OUTPUT_START,
    PYTHON_END,
    PYTHON_START,
    SEARCH_END,
    SEARCH_START,
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


Part = Text | PythonCall | SearchCall | ToolOutput


@dataclass(frozen=True)
class Message:
    """One turn; a plain string as content is the same as one `Text`.

    Raises:
        UserError: if the role is unknown, or one other than the assistant calls tools.
    """

    role: Role
    content: str | Sequence[Part]

    def __post_init__(self) -> None:
        if self.role not in ROLES:
            raise UserError(f"unknown role `{self.role}`", hint=f"roles are {', '.join(ROLES)}")
        if self.role != "assistant" and any(not isinstance(part, Text) for part in self.parts):
            raise UserError(f"a message of role `{self.role}` holds a tool call or a tool output")

    @property
    def parts(self) -> tuple[Part, ...]:
        """The content as parts, with neighbouring texts joined."""
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
        """The words meant for the reader, without tool calls and their outputs."""
        return "".join(part.text for part in self.parts if isinstance(part, Text))


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
    messages: Sequence[Message], tokenizer: Tokenizer, add_generation_prompt: bool = False
) -> Rendered:
    """Return the ids and the training mask of a conversation.

    The result for the first k messages is always a prefix of the result for more of them, and with
    `add_generation_prompt` (an open assistant turn) it is a prefix of any reply to it.
    """
    rendered = Rendered()
    rendered.add([tokenizer.bos_id], trained=False)
    for message in messages:
        rendered.add([tokenizer.special[IM_START]], trained=False)
        if message.role == "assistant":
            rendered.add(tokenizer.encode("assistant\n"), trained=False)
            for part in message.parts:
                rendered.add(part_ids(part, tokenizer), trained=not isinstance(part, ToolOutput))
        else:
            # Role and text in one piece, as the Jinja template gives them to a tokenizer: the two
            # ways then agree even where a text starts with a newline.
            rendered.add(tokenizer.encode(f"{message.role}\n{message.text}"), trained=False)
        rendered.add([tokenizer.special[IM_END]], trained=message.role == "assistant")
        rendered.add(tokenizer.encode("\n"), trained=False)
    if add_generation_prompt:
        rendered.add([tokenizer.special[IM_START]], trained=False)
        rendered.add(tokenizer.encode("assistant\n"), trained=False)
    return rendered


def part_ids(part: Part, tokenizer: Tokenizer) -> list[int]:
    """Return the ids of one part of an assistant's message, with the control tokens around it."""
    special = tokenizer.special
    match part:
        case Text(text):
            return tokenizer.encode(text)
        case PythonCall(code):
            return [special[PYTHON_START], *tokenizer.encode(code), special[PYTHON_END]]
        case SearchCall(query):
            return [special[SEARCH_START], *tokenizer.encode(query), special[SEARCH_END]]
        case ToolOutput(text):
            return [special[OUTPUT_START], *tokenizer.encode(text), special[OUTPUT_END]]
