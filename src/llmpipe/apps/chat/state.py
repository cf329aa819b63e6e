"""A chat between two readings of the keyboard: messages, settings, counts."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Generator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from llmpipe.apps.load import Loaded
from llmpipe.assistant.generate import Tools, stream_reply
from llmpipe.assistant.render import Message, Rendered, render
from llmpipe.assistant.reply import Done, Event, Reply
from llmpipe.core.artifact import write_atomic
from llmpipe.core.errors import InputError, LlmpipeError, UserError
from llmpipe.inference.sampling import Sampling
from llmpipe.stages.sft.conversation import Conversation, part_from_json

MIN_ANSWER_TOKENS = 32
"""Room that is kept free for the answer when old turns are dropped."""


@dataclass
class Chat:
    """What commands change and replies are made from.

    Attributes:
        messages: the conversation without its system message.
        raw: print control tokens by their spelling.
        show_tokens: print the ids of the conversation after every reply.
        last: how the last reply ended.
    """

    loaded: Loaded
    tools: Tools
    sampling: Sampling
    system: str | None = None
    messages: list[Message] = field(default_factory=list)
    raw: bool = False
    show_tokens: bool = False
    last: Done | None = None
    n_replies: int = 0
    n_tokens: int = 0

    def all_messages(self) -> list[Message]:
        """Return the conversation with its system message."""
        system = [Message("system", self.system)] if self.system else []
        return [*system, *self.messages]

    def rendered(self, add_generation_prompt: bool = False) -> Rendered:
        """Return the conversation as the model reads it."""
        return render(self.all_messages(), self.loaded.tokenizer, add_generation_prompt)

    def make_room(self) -> int:
        """Drop the oldest turns until an answer fits; return how many messages went.

        The system message and the last message stay. Whole turns go: what is left begins with a
        user's message.
        """
        max_len = self.loaded.engine.max_len
        wanted = min(MIN_ANSWER_TOKENS, max_len // 4)
        n_dropped = 0
        while len(self.messages) > 1:
            if len(self.rendered(add_generation_prompt=True).ids) + wanted <= max_len:
                break
            del self.messages[0]
            n_dropped += 1
            while len(self.messages) > 1 and self.messages[0].role != "user":
                del self.messages[0]
                n_dropped += 1
        return n_dropped

    def reply(self, reply: Reply) -> Generator[Event, None, None]:
        """Yield the answer to the last message; `reply` holds what is there of it at any time."""
        loaded = self.loaded
        events = stream_reply(
            loaded.engine, loaded.tokenizer, self.all_messages(), self.sampling, self.tools, reply
        )
        with contextlib.closing(events):
            for event in events:
                if isinstance(event, Done):
                    self.last = event
                    self.n_replies += 1
                    self.n_tokens += event.n_tokens
                yield event

    def undo(self) -> None:
        """Take back the last message of the user and what came after it.

        Raises:
            UserError: if there is none.
        """
        del self.messages[self._last_user() :]

    def take_back_reply(self) -> None:
        """Take back what came after the last message of the user.

        Raises:
            UserError: if there is none.
        """
        del self.messages[self._last_user() + 1 :]

    def _last_user(self) -> int:
        for i in reversed(range(len(self.messages))):
            if self.messages[i].role == "user":
                return i
        raise UserError("nothing has been said yet")

    def save(self, path: Path) -> None:
        """Write the conversation as one line of JSON, in the form that `sft` reads.

        Raises:
            UserError: if the file cannot be written.
        """
        conversation = Conversation(tuple(self.all_messages()), source="chat")
        try:
            write_atomic(path, conversation.to_json() + "\n")
        except OSError as error:
            raise UserError(f"{path} cannot be written: {error.strerror}") from error

    def load(self, path: Path) -> None:
        """Replace the conversation by one that was saved.

        Raises:
            InputError: if the file is missing or holds no conversation.
        """
        messages = read_messages(path)
        is_system = bool(messages) and messages[0].role == "system"
        self.system = messages[0].text if is_system else None
        self.messages = messages[1:] if is_system else messages


def read_messages(path: Path) -> list[Message]:
    """Return the messages of a file with one conversation.

    Raises:
        InputError: if the file is missing or holds something else.
    """
    try:
        row = json.loads(path.read_text(encoding="utf-8"))
        return [Message(item["role"], _content(item["content"])) for item in row["messages"]]
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, AttributeError, LlmpipeError) as error:
        raise InputError(
            f"{path} holds no conversation: {error}",
            hint='expected one line {"messages": [{"role": "user", "content": "..."}, ...]}',
        ) from error


def _content(value: Any) -> Any:
    """Return a message's content: a string, or a list of parts."""
    if isinstance(value, str):
        return value
    if isinstance(value, list):
        return [part_from_json(part) for part in value]
    raise ValueError(f"content is {type(value).__name__} and must be a string or a list of parts")
