"""A chat between two readings of the keyboard: messages, settings, counts."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Generator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from llmpipe.apps.load import Loaded
from llmpipe.assistant.conversation import Conversation, forget_oldest, messages_from_json
from llmpipe.assistant.events import Done, Event
from llmpipe.assistant.generate import Tools, stream_reply
from llmpipe.assistant.render import Message, Rendered, render
from llmpipe.assistant.reply import Reply
from llmpipe.assistant.rules import ReplyRules
from llmpipe.assistant.tool_list import with_tool_list
from llmpipe.assistant.tools import ToolName
from llmpipe.core.artifact import write_atomic
from llmpipe.core.errors import InputError, LlmpipeError, UserError
from llmpipe.inference.sampling import Sampling

MIN_ANSWER_TOKENS = 32
"""Room that is kept free for the answer when old turns are dropped."""

ThinkMode = Literal["show", "hide", "off"]


@dataclass
class Chat:
    """What commands change and replies are made from.

    Attributes:
        tools: those that are open.
        name: of the model, for the status line.
        offered: names of the tools the assistant is told of; None tells it nothing, and leaves it with
            what it was trained with.
        messages: the conversation without its system message.
        raw: print control tokens by their spelling.
        last: how the last reply ended.
    """

    loaded: Loaded
    tools: Tools
    sampling: Sampling
    system: str | None = None
    name: str = ""
    offered: Sequence[ToolName] | None = None
    think: ThinkMode = "show"
    max_thought: int | None = None
    messages: list[Message] = field(default_factory=list)
    raw: bool = False
    show_tokens: bool = False
    last: Done | None = None
    n_replies: int = 0
    n_tokens: int = 0

    @property
    def usable_tools(self) -> Tools:
        """The open tools that may be called."""
        if self.offered is None:
            return self.tools
        return {name: tool for name, tool in self.tools.items() if name in self.offered}

    def all_messages(self) -> list[Message]:
        """Return the conversation with its system message."""
        system = [Message("system", self.system)] if self.system else []
        return [*system, *self.messages]

    def prompt_messages(self) -> list[Message]:
        """Return the conversation with what the assistant is told of its tools."""
        messages = self.all_messages()
        return messages if self.offered is None else with_tool_list(messages, self.offered)

    def rendered(self, add_generation_prompt: bool = False) -> Rendered:
        """Return the conversation as the model reads it."""
        return render(self.prompt_messages(), self.loaded.tokenizer, add_generation_prompt)

    def make_room(self) -> int:
        """Drop the oldest turns until an answer fits; return how many messages went.

        The system message and the last message stay.
        """
        max_len = self.loaded.engine.max_len
        most = max_len - min(MIN_ANSWER_TOKENS, max_len // 4)
        return forget_oldest(
            self.messages, lambda: len(self.rendered(add_generation_prompt=True).ids) <= most
        )

    def new_reply(self) -> Reply:
        """Return an empty reply that may do what the chat allows: use its tools, think so long."""
        rules = ReplyRules(
            runs=frozenset(self.usable_tools),
            max_thought=0 if self.think == "off" else self.max_thought,
            ends=self.loaded.stop_ids,
        )
        return Reply(self.loaded.tokenizer, rules, show_special=self.raw)

    def reply(self, reply: Reply) -> Generator[Event, None, None]:
        """Yield the answer to the last message; `reply` holds what has been written so far."""
        events = stream_reply(
            self.loaded.engine,
            self.prompt_messages(),
            self.sampling,
            self.usable_tools,
            reply,
        )
        with contextlib.closing(events):
            for event in events:
                if isinstance(event, Done):
                    self.last = event
                    self.n_replies += 1
                    self.n_tokens += event.n_tokens
                yield event

    def undo(self) -> None:
        """Take back the last message of the user and what came after it."""
        del self.messages[self.last_user() :]

    def last_user(self) -> int:
        """Return the place of the last message of the user.

        Raises:
            UserError: if there is none.
        """
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
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
            raise InputError(f"{path} cannot be read: {reason}") from error
        self.begin(read_messages(text, str(path)))

    def begin(self, messages: list[Message]) -> None:
        """Replace the conversation; a system message at its front becomes that of the chat."""
        is_system = bool(messages) and messages[0].role == "system"
        self.system = messages[0].text if is_system else None
        self.messages = messages[1:] if is_system else messages


def read_messages(text: str, where: str) -> list[Message]:
    """Return the messages of a conversation in JSON.

    Raises:
        InputError: if it is something else.
    """
    try:
        # Here the mask says what the assistant has said, and not what somebody wants to train.
        return [replace(one, is_trained=True) for one in messages_from_json(json.loads(text))]
    except (ValueError, KeyError, TypeError, AttributeError, LlmpipeError) as error:
        raise InputError(
            f"{where} holds no conversation: {error}",
            hint='expected one line {"messages": [{"role": "user", "content": "..."}, ...]}',
        ) from error
