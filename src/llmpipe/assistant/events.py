"""What happens while a reply is written, as events in order."""

from __future__ import annotations

from dataclasses import dataclass

from llmpipe.assistant.tools import ToolName
from llmpipe.inference.engine import LogProb, Reason


@dataclass(frozen=True)
class AddedTokens:
    """Ids that were added to the turn; what they mean follows in other events.

    Attributes:
        ids: one that was sampled, or all that were injected at once.
        logprob: of a sampled one, if it was asked for.
        is_end: whether this is a stop token, which ends the turn and says nothing.
    """

    ids: tuple[int, ...]
    is_sampled: bool
    logprob: LogProb | None = None
    is_end: bool = False


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
    """The assistant calls a tool; the result follows, if the tool is run here."""

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
        reason: why it ended: the stop token (or a stop string), `max_tokens`, or a full context.
        n_tokens: sampled; without prompt and tool outputs, with thoughts.
        tok_per_s: sampled tokens by the time from the request to the end.
        first_token_s: time from the request to the first token.
    """

    reason: Reason
    n_tokens: int
    tok_per_s: float
    first_token_s: float


Event = AddedTokens | TextDelta | ThinkDelta | ToolCall | ToolResult | Done
